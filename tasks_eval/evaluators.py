"""What is measured of a model while it trains, registered in the entry-point group `nanochat.evaluators`.

    core        of a base model: some items of each CORE task
    chatcore    of a chat model: some questions of each chat task, by default of those that a letter answers

Both ask what the evaluation of the finished model asks first: the same examples, in the same order, in the same words.
Their metrics are TASK/accuracy and TASK/stderr, and the mean of the centred accuracies with its standard error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.errors import SpecError
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.inference.interface import TextModel
from tasks_eval.chat import Sampling, score_examples
from tasks_eval.core.bundle import LABELS, CoreTask, read_bundle
from tasks_eval.core.score import choose_tasks, score_items
from tasks_eval.hub import TaskData
from tasks_eval.sandbox.levels import require_sandbox
from tasks_eval.scores import centered, mean_centered, standard_error
from tasks_eval.task import Task, make_task

CHEAP_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU")  # of ChatCORE, those that need one forward pass a question

Answer = dict[str, Any]  # {"task", "correct"}: whether the answer to one question of it is right
Share = Callable[[int], list[int]]
Report = Callable[[int], None]


def core(spec: EvaluatorSpec, task_data: Path) -> "CoreEvaluator":
    """Return the evaluator `core`. Raises SpecError without the bundle or for an unknown label, DataError for bad data.

    All items are read here once, and again for each measurement: in between they would only take memory.
    """
    root = TaskData.open(task_data).core_root()
    if root is None:
        raise SpecError(
            "evaluators: core needs the CORE bundle; add 'core' to task_data.datasets, or take core out of the list."
        )
    tasks = choose_tasks(read_bundle(root), spec.tasks)
    return CoreEvaluator(
        {task.label: task for task in tasks}, [min(spec.examples, len(task.items())) for task in tasks]
    )


def chatcore(spec: EvaluatorSpec, task_data: Path) -> "ChatEvaluator":
    """Return the evaluator `chatcore`. Raises SpecError for a task that is unknown or cannot be graded here."""
    data = TaskData.open(task_data)
    tasks = [make_task(name, data, "test") for name in spec.tasks or CHEAP_TASKS]
    if ungraded := [task.name for task in tasks if task.grading is None]:
        raise SpecError(f"evaluators: chatcore cannot grade {', '.join(ungraded)}; take it out of its tasks.")
    if any(task.grading == "unit_tests" for task in tasks):
        require_sandbox()
    counts = [min(spec.examples, len(task)) for task in tasks]
    return ChatEvaluator({task.name: task for task in tasks}, counts, Sampling(spec.max_new_tokens))


@dataclass(frozen=True)
class CoreEvaluator:
    """The first items of CORE tasks, by label: `counts` of each."""

    tasks: Mapping[str, CoreTask]
    counts: Sequence[int]

    @property
    def examples(self) -> int:
        return sum(self.counts)

    def answer(self, model: TextModel, share: Share, report: Report) -> list[Answer]:
        """Return whether the model gets each item of this rank's share right."""
        answers: list[Answer] = []
        for (label, task), count in zip(self.tasks.items(), self.counts, strict=True):
            records = score_items(model, task, task.items(), share(count), report=report)
            answers += ({"task": label, "correct": record.correct} for record in records)
        return answers

    def score(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Return the metrics: `core` where all 22 tasks were measured, else `core_partial`."""
        name = "core" if self.tasks.keys() >= set(LABELS) else "core_partial"
        return metrics_of(name, answers, {label: task.baseline for label, task in self.tasks.items()})


@dataclass(frozen=True)
class ChatEvaluator:
    """The first questions of chat tasks, by name: `counts` of each; those that want text are answered greedily."""

    tasks: Mapping[str, Task]
    counts: Sequence[int]
    sampling: Sampling

    @property
    def examples(self) -> int:
        return sum(self.counts)

    def answer(self, model: TextModel, share: Share, report: Report) -> list[Answer]:
        """Return whether the model answers each question of this rank's share right."""
        answers: list[Answer] = []
        for (name, task), count in zip(self.tasks.items(), self.counts, strict=True):
            records = score_examples(model, task, share(count), self.sampling, report=report)
            answers += ({"task": name, "correct": record.correct} for record in records)
        return answers

    def score(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Return the metrics, `chatcore` over the tasks of this evaluator."""
        return metrics_of("chatcore", answers, {name: task.baseline for name, task in self.tasks.items()})


def metrics_of(name: str, answers: Sequence[Answer], baselines: Mapping[str, float]) -> dict[str, float]:
    """Return TASK/accuracy and TASK/stderr of each task, and under `name` the mean of the centred accuracies.

    >>> answers = [{"task": "piqa", "correct": correct} for correct in (True, True, True, False)]
    >>> metrics_of("core_partial", answers, {"piqa": 0.5})
    {'piqa/accuracy': 0.75, 'piqa/stderr': 0.25, 'core_partial': 0.5, 'core_partial_stderr': 0.5}
    """
    metrics: dict[str, float] = {}
    rows = {}
    for task, baseline in baselines.items():
        values = [float(answer["correct"]) for answer in answers if answer["task"] == task]
        accuracy, stderr = sum(values) / len(values), standard_error(values)
        metrics |= {f"{task}/accuracy": accuracy, f"{task}/stderr": stderr}
        rows[task] = {"centered": centered(accuracy, baseline), "stderr": stderr, "baseline": baseline}
    value, error = mean_centered(rows)
    return metrics | {name: value, f"{name}_stderr": error}
