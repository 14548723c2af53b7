"""What is measured of a model while it trains, registered in the entry-point group `nanochat.evaluators`.

    core        of a base model: some items of each CORE task
    chatcore    of a chat model: some questions of each chat task, by default of those that a letter answers

Both ask what the evaluation of the finished model asks first: the same examples, in the same order, in the same words.
Their metrics are TASK/accuracy and TASK/stderr, and the mean of the centred accuracies with its standard error.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from tasks_eval.records import Record
from tasks_eval.sandbox.levels import require_sandbox
from tasks_eval.scores import centered, mean_centered, standard_error
from tasks_eval.task import Task, make_task

CHEAP_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU")  # of ChatCORE, those that need one forward pass a question

Answer = dict[str, Any]  # {"task", "correct"}: whether the answer to one question of it is right
Share = Callable[[int], list[int]]
Report = Callable[[int], None]


@dataclass(frozen=True)
class Questions:
    """The first `count` questions of a task: `ask` returns a model's answers to those at some indices."""

    task: str
    count: int
    baseline: float
    ask: Callable[[TextModel, Sequence[int], Report], list[Record]]


@dataclass(frozen=True)
class TaskEvaluator:
    """The first questions of some tasks, and the name of the mean over them."""

    mean: str
    questions: Sequence[Questions]

    @property
    def examples(self) -> int:
        return sum(questions.count for questions in self.questions)

    def answer(self, model: TextModel, share: Share, report: Report) -> list[Answer]:
        """Return whether the model gets each question of this rank's share right."""
        return [
            {"task": questions.task, "correct": record.correct}
            for questions in self.questions
            for record in questions.ask(model, share(questions.count), report)
        ]

    def score(self, answers: Sequence[Answer]) -> dict[str, float]:
        return metrics_of(self.mean, answers, {questions.task: questions.baseline for questions in self.questions})


def core(spec: EvaluatorSpec, task_data: Path) -> TaskEvaluator:
    """Return the evaluator `core`. Raises SpecError without the bundle or for an unknown label, DataError for bad data.

    All items are read here once, and again for each measurement: in between they would only take memory.
    """
    root = TaskData.open(task_data).core_root()
    if root is None:
        raise SpecError(
            "evaluators: core needs the CORE bundle; add 'core' to task_data.datasets, or take core out of the list."
        )
    tasks = choose_tasks(read_bundle(root), spec.tasks)
    mean = core_name([task.label for task in tasks])
    return TaskEvaluator(mean, [_items_of(task, spec.examples) for task in tasks])


def core_name(labels: Iterable[str]) -> str:
    """Return what the mean over these tasks is called.

    >>> core_name(LABELS), core_name(LABELS[1:])
    ('core', 'core_partial')
    """
    return "core" if set(labels) >= set(LABELS) else "core_partial"


def _items_of(task: CoreTask, examples: int) -> Questions:
    def ask(model: TextModel, indices: Sequence[int], report: Report) -> list[Record]:
        return score_items(model, task, task.items(), indices, report=report)

    return Questions(task.label, min(examples, len(task.items())), task.baseline, ask)


def chatcore(spec: EvaluatorSpec, task_data: Path) -> TaskEvaluator:
    """Return the evaluator `chatcore`, which answers greedily where text is wanted. Raises SpecError for a task that is
    unknown or cannot be graded here."""
    data = TaskData.open(task_data)
    tasks = [make_task(name, data, "test") for name in spec.tasks or CHEAP_TASKS]
    if ungraded := [task.name for task in tasks if task.grading is None]:
        raise SpecError(f"evaluators: chatcore cannot grade {', '.join(ungraded)}; take it out of its tasks.")
    if any(task.grading == "unit_tests" for task in tasks):
        require_sandbox()
    return TaskEvaluator("chatcore", [_questions_of(task, spec) for task in tasks])


def _questions_of(task: Task, spec: EvaluatorSpec) -> Questions:
    def ask(model: TextModel, indices: Sequence[int], report: Report) -> list[Record]:
        return score_examples(model, task, indices, Sampling(spec.max_new_tokens), report=report)

    return Questions(task.name, min(spec.examples, len(task)), task.baseline, ask)


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
