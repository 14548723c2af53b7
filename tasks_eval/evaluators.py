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
from tasks_eval.blocks import BLOCK, QuestionSet, Report
from tasks_eval.chat import Sampling
from tasks_eval.core.bundle import LABELS, read_bundle
from tasks_eval.core.score import choose_tasks
from tasks_eval.plan import chat_questions, core_questions, graded_tasks
from tasks_eval.scores import ASIDE, centered, mean_centered, standard_error
from tasks_eval.task_data import TaskData

CHEAP_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU")  # of ChatCORE, those that need one forward pass a question

Answer = dict[str, Any]  # {"task", "correct"}: whether the answer to one question of it is right
Share = Callable[[int], list[int]]
TOOL = "calculator"  # as the engine of `training.evaluators` has it


@dataclass(frozen=True)
class TaskEvaluator:
    """The first questions of some tasks, and the name of the mean over them.

    They are made anew for each measurement: in between they would only take memory.
    """

    mean: str
    plan: Callable[[], Sequence[QuestionSet]]
    counts: Mapping[str, int]  # questions of each task
    baselines: Mapping[str, float]

    @classmethod
    def of(cls, mean: str, plan: Callable[[], Sequence[QuestionSet]]) -> "TaskEvaluator":
        """Make the questions once, so that what is wrong with them is known before the first step."""
        sets = plan()
        return cls(mean, plan, {own.name: own.count for own in sets}, {own.name: own.baseline for own in sets})

    @property
    def examples(self) -> int:
        return sum(self.counts.values())

    def answer(self, model: TextModel, share: Share, report: Report) -> list[Answer]:
        """Return whether the model gets each question of this rank's share right."""
        answers: list[Answer] = []
        for questions in self.plan():
            own = share(questions.count)
            for first in range(0, len(own), BLOCK):
                block = own[first : first + BLOCK]
                records = questions.ask(model, block)
                answers += ({"task": questions.name, "correct": record.correct} for record in records)
                report(len(block))
        return answers

    def score(self, answers: Sequence[Answer]) -> dict[str, float]:
        return metrics_of(self.mean, answers, self.baselines)


def core(spec: EvaluatorSpec, task_data: Path) -> TaskEvaluator:
    """Return the evaluator `core`. Raises SpecError without the bundle or for an unknown label."""
    root = TaskData.open(task_data).core_root()
    if root is None:
        raise SpecError(
            "evaluators: core needs the CORE bundle; add 'core' to task_data.datasets, or take core out of the list."
        )
    tasks = choose_tasks(read_bundle(root), spec.tasks)
    mean = core_name([task.label for task in tasks])
    return TaskEvaluator.of(mean, lambda: [core_questions(task, spec.examples) for task in tasks])


def core_name(labels: Iterable[str]) -> str:
    """Return what the mean over these tasks is called.

    >>> core_name(LABELS), core_name(LABELS[1:])
    ('core', 'core_partial')
    """
    return "core" if set(labels) >= set(LABELS) else "core_partial"


def chatcore(spec: EvaluatorSpec, task_data: Path) -> TaskEvaluator:
    """Return the evaluator `chatcore`, which answers greedily where text is wanted. Raises SpecError for a task that is
    unknown or cannot be graded here."""
    data = TaskData.open(task_data)
    tasks = graded_tasks(spec.tasks or CHEAP_TASKS, data, field="evaluators: tasks of chatcore")
    sampling = Sampling(spec.max_new_tokens)
    return TaskEvaluator.of(
        "chatcore", lambda: [chat_questions(task, spec.examples, sampling, tool=TOOL) for task in tasks]
    )


def metrics_of(name: str, answers: Sequence[Answer], baselines: Mapping[str, float]) -> dict[str, float]:
    """Return TASK/accuracy and TASK/stderr of each task, and under `name` the mean of the centred accuracies of those
    that are not ASIDE, if there are any.

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
        if task not in ASIDE:
            rows[task] = {"centered": centered(accuracy, baseline), "stderr": stderr, "baseline": baseline}
    if not rows:
        return metrics
    value, error = mean_centered(rows)
    return metrics | {name: value, f"{name}_stderr": error}
