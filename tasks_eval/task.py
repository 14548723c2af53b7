"""What a task is, and the registry that finds one by name.

A task is a numbered set of example conversations and, where it can be graded, the name of its grader. Mixtures train on
the conversations, evaluation asks the model their first part, and the reward of RL grades like the evaluation does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from nanochat_core.errors import DataError, SpecError, did_you_mean
from nanochat_core.inference.interface import Conversation
from tasks_eval.task_data import TaskData

GROUP = "nanochat.tasks"

Kind = Literal["multiple_choice", "generative"]
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Task:
    """One split of a task. `task[i]` is the conversation {"messages": [...], own fields}, the same at each call.

    `kind` says how it is asked: multiple_choice by the logits of the letters in the example's `letters`, generative by
    sampling. `grading` names the entry of `grading.GRADERS` that judges an answer; None: a task to train on only.
    `baseline` is the accuracy of guessing. `version` rises when a change alters prompts or grading. `group_field` is
    the field of an example that names its part of the task, for example MMLU's subject; None: the task is one whole.
    """

    name: str
    kind: Kind
    split: Split
    size: int
    make_example: Callable[[int], Conversation]
    grading: str | None = None
    baseline: float = 0.0
    version: int = 1
    group_field: str | None = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} ({self.split}) has {self.size} examples; {index} was asked for.")
        return self.make_example(index)

    def meta(self, example: Conversation) -> dict[str, Any]:
        """Return what a grader needs of an example: the task's name, its grading, and the example's own fields."""
        own = {name: value for name, value in example.items() if name != "messages"}
        return {"task": self.name, "grading": self.grading, **own}


def task_names() -> list[str]:
    """Return the names of all registered tasks, sorted."""
    return sorted(point.name for point in entry_points(group=GROUP))


def make_task(name: str, data: TaskData, split: Split) -> Task:
    """Return a split of the task registered as `name`.

    Raises SpecError for an unknown name, DataError where the task's data set was not fetched or gives no example.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise SpecError(f"Unknown task {name!r}{did_you_mean(name, points)}.")
    task: Task = points[name].load()(data, split)
    if not len(task):
        raise DataError(f"The task {name!r} has no examples in its {split} split.")
    return task
