"""A mixture of tasks as a list of picks: which example of which task, in which order. Deterministic for a seed.

Training rows are the first `rows` of each task's train split, `epochs` times. Validation rows are the LAST of the test
splits, evenly spread over the tasks; evaluation takes the first of the same splits, so the two share questions only
where it asks for nearly all that a split has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat_core.inference.interface import Conversation
from nanochat_core.specs import ConversationsSpec
from tasks_eval.hub import TaskData
from tasks_eval.task import Task, make_task


@dataclass(frozen=True)
class Pick:
    """One example of a task."""

    task: Task
    index: int

    def example(self) -> Conversation:
        return self.task[self.index]


def training_picks(spec: ConversationsSpec, data: TaskData) -> list[Pick]:
    """Return all rows of the mixture, shuffled. A task with fewer rows than asked for gives all that it has."""
    picks: list[Pick] = []
    for item in spec.mixture:
        task = make_task(item.task, data, "train")
        rows = range(min(item.rows or len(task), len(task)))
        picks += [Pick(task, index) for _ in range(item.epochs) for index in rows]
    return _shuffled(picks, spec.seed)


def validation_picks(spec: ConversationsSpec, data: TaskData) -> list[Pick]:
    """Return `validation_rows` held-out rows, shuffled; fewer where the test splits are small."""
    names = list(dict.fromkeys(item.task for item in spec.mixture))
    tasks = [make_task(name, data, "test") for name in names]
    picks: list[Pick] = []
    for task, rows in zip(tasks, even_shares(spec.validation_rows, [len(task) for task in tasks]), strict=True):
        picks += [Pick(task, len(task) - 1 - number) for number in range(rows)]
    return _shuffled(picks, spec.seed)


def even_shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Return how many of `total` each part gives: as evenly as their sizes allow.

    >>> even_shares(10, [100, 2, 100]), even_shares(10, [1, 2])
    ([4, 2, 4], [1, 2])
    """
    shares = [0] * len(sizes)
    by_size = sorted(range(len(sizes)), key=lambda part: (sizes[part], part))
    for place, part in enumerate(by_size):
        parts_left = len(sizes) - place
        shares[part] = min(sizes[part], -(-total // parts_left))
        total -= shares[part]
    return shares


def _shuffled(picks: list[Pick], seed: int) -> list[Pick]:
    return [picks[place] for place in np.random.default_rng(seed).permutation(len(picks))]
