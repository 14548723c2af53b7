"""A mixture of tasks as a list of picks: which example of which task, in which order. Deterministic for a seed.

A file of the user's own is a task as well. One without a weight gives the first `rows` of its train split, `epochs`
times. Those with weights share
`weighted_rows`: each gives its share of them, going over its rows as often as that needs. The rows are shuffled, or, in
a sequence, those of one task after those of the other.

Validation rows are the LAST of the test splits, evenly spread over the tasks; evaluation takes the first of the same
splits, so the two share questions only where it asks for nearly all that a split has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from nanochat_core.data.own.conversation_files import source_names
from nanochat_core.inference.interface import Conversation
from nanochat_core.specs import ConversationsSpec, MixtureItem
from tasks_eval.task import Split, Task, make_task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.custom_json import make_from

Render = Callable[[Conversation], tuple[list[int], list[int]]]  # ids and mask


@dataclass(frozen=True)
class Pick:
    """One example of a task."""

    task: Task
    index: int

    def example(self) -> Conversation:
        return self.task[self.index]


def tasks_of(spec: ConversationsSpec, data: TaskData, split: Split) -> dict[str, Task]:
    """Return {source: task} of a mixture, each once, in its order; a file of the user's own is a task by its name.

    Raises DataError, that of a file with the lines that are wrong, or SpecError where there is nothing to make one of.
    """
    paths = {source: item.path for source, item in zip(source_names(spec.mixture), spec.mixture, strict=True)}
    return {
        source: make_from(Path(path), source, split) if path else make_task(source, data, split)
        for source, path in paths.items()
    }


def training_picks(spec: ConversationsSpec, data: TaskData) -> list[Pick]:
    """Return all rows of the mixture, shuffled or in sequence. A task with fewer rows than asked for gives all it has.

    In a sequence the seed shuffles what each task gives, not what comes first.
    """
    found = tasks_of(spec, data, "train")
    tasks = [found[source] for source in source_names(spec.mixture)]
    available = [min(item.rows or len(task), len(task)) for item, task in zip(spec.mixture, tasks, strict=True)]
    counts = row_counts(spec.mixture, available, spec.weighted_rows)
    given = [
        [Pick(task, number % rows) for number in range(count)]
        for task, rows, count in zip(tasks, available, counts, strict=True)
    ]
    if spec.order == "sequence":
        return [pick for picks in given for pick in _shuffled(picks, spec.seed)]
    return _shuffled([pick for picks in given for pick in picks], spec.seed)


def validation_picks(spec: ConversationsSpec, data: TaskData) -> list[Pick]:
    """Return `validation_rows` held-out rows, shuffled; fewer where the test splits are small."""
    tasks = list(tasks_of(spec, data, "test").values())
    picks: list[Pick] = []
    for task, rows in zip(tasks, even_shares(spec.validation_rows, [len(task) for task in tasks]), strict=True):
        picks += [Pick(task, len(task) - 1 - number) for number in range(rows)]
    return _shuffled(picks, spec.seed)


def row_counts(mixture: Sequence[MixtureItem], available: Sequence[int], weighted_rows: int | None) -> list[int]:
    """Return how many rows each task of a mixture gives, those that it gives again included.

    `available` are the rows of one pass of each. Where `weighted_rows` is None, the tasks with weights give as many as
    none of them needs more than its epochs for.

    >>> items = [MixtureItem(task="a", weight=3), MixtureItem(task="b", weight=1, epochs=2), MixtureItem(task="c")]
    >>> row_counts(items, [60, 5, 7], None), row_counts(items, [60, 5, 7], 100)
    ([30, 10, 7], [75, 25, 7])
    """
    weights = [Fraction(item.weight or 0) for item in mixture]
    passes = [rows * item.epochs for rows, item in zip(available, mixture, strict=True)]
    if weighted_rows is None and any(weights):
        most = min(count / weight for count, weight in zip(passes, weights, strict=True) if weight)
        weighted_rows = int(most * sum(weights))
    shares = weighted_shares(weighted_rows or 0, weights)
    return [share if weight else count for share, weight, count in zip(shares, weights, passes, strict=True)]


def weighted_shares(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Return `total` as whole numbers in proportion to the weights; what is left over goes to the largest remainders.

    >>> weighted_shares(10, [Fraction(2), Fraction(1), Fraction(0)])
    [7, 3, 0]
    """
    if not any(weights):
        return [0] * len(weights)
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda part: (shares[part] - exact[part], part))
    for part in by_remainder[: total - sum(shares)]:
        shares[part] += 1
    return shares


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
