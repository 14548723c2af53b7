"""Which conversations share a row, and which rows a step: a function of lengths, seed and epoch. Torch-free.

`padded`: a conversation a row, `batch_rows` rows a step, in a seeded order; what does not fill a step is left out.
`packed`: whole conversations, as many as fit a row, best fit first (Ding et al. 2024, arXiv:2404.10830).
`bucketed`: a conversation a row, those of like length in one step, as many as its budget of tokens holds.

How many rows and steps there are follows from the lengths alone, so it is the same in each epoch; what an epoch's seed
decides is which of the conversations of one length takes which place, and the order of rows and steps. The number of
ranks decides nothing.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchShape:
    """What a step holds. A row is `row_tokens` long at most: ids and, one further, their targets."""

    batch_rows: int
    row_tokens: int
    batch_tokens: int


@dataclass(frozen=True)
class EpochPlan:
    """The rows of an epoch, step after step.

    Row r holds the conversations members[row_starts[r] : row_starts[r + 1]] in that order, and step s the rows
    step_starts[s] … step_starts[s + 1] - 1.
    """

    members: np.ndarray
    row_starts: np.ndarray
    step_starts: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.step_starts) - 1

    def rows(self, step: int) -> list[np.ndarray]:
        """Return the conversations of each row of a step."""
        starts = self.row_starts[self.step_starts[step] : self.step_starts[step + 1] + 1]
        return [self.members[first:end] for first, end in itertools.pairwise(starts)]


Planner = Callable[[np.ndarray, BatchShape, np.random.Generator], EpochPlan]


def padded_plan(lengths: np.ndarray, shape: BatchShape, rng: np.random.Generator) -> EpochPlan:
    """Return a plan with one conversation a row, in random order; the last, partial step is left out."""
    steps = len(lengths) // shape.batch_rows
    members = rng.permutation(len(lengths))[: steps * shape.batch_rows]
    return EpochPlan(members, np.arange(len(members) + 1), np.arange(steps + 1) * shape.batch_rows)


def packed_plan(lengths: np.ndarray, shape: BatchShape, rng: np.random.Generator) -> EpochPlan:
    """Return a plan of every conversation, in rows that are as full as best fit makes them; lengths are 1 or more.

    Within a row they stand in the epoch's order. The steps differ by one row at most.
    """
    order = rng.permutation(len(lengths))
    cut = np.minimum(lengths[order], shape.row_tokens)
    by_length = np.argsort(-cut, kind="stable")  # places in `order`, those of one length as that has them
    row_of = best_fit_decreasing(cut[by_length], shape.row_tokens)
    rows = int(row_of.max()) + 1 if len(row_of) else 0
    shuffled = rng.permutation(rows)[row_of]
    places = by_length[np.lexsort((by_length, shuffled))]
    row_starts = np.concatenate([[0], np.cumsum(np.bincount(shuffled, minlength=rows))])
    return EpochPlan(order[places], row_starts, even_steps(rows, shape.batch_rows))


def bucketed_plan(lengths: np.ndarray, shape: BatchShape, rng: np.random.Generator) -> EpochPlan:
    """Return a plan of every conversation, one a row, those of like length in one step; the steps in random order."""
    order = rng.permutation(len(lengths))
    widths = np.maximum(1, np.minimum(lengths[order], shape.row_tokens) - 1)
    by_length = np.argsort(-widths, kind="stable")
    starts = bucket_starts(widths[by_length], shape.batch_tokens)
    sizes = np.diff(starts)
    steps = rng.permutation(len(sizes))
    members = [order[by_length[starts[step] : starts[step + 1]]] for step in steps]
    step_starts = np.concatenate([[0], np.cumsum(sizes[steps])])
    return EpochPlan(np.concatenate([order[:0], *members]), np.arange(len(lengths) + 1), step_starts)


PLANNERS: dict[str, Planner] = {"padded": padded_plan, "packed": packed_plan, "bucketed": bucketed_plan}


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Return the row of each piece, (n,): the fullest row that still has room for it, a new one where none has.

    `lengths` fall, from `capacity` at most to 1 at least. Rows with equal room are handled together, and so are pieces
    of equal length: what is left to loop over are the different lengths, not the pieces.

    >>> best_fit_decreasing(np.array([6, 5, 4, 3, 3, 1]), 10).tolist()
    [0, 1, 0, 1, 2, 1]
    """
    with_room: dict[int, list[np.ndarray]] = {}  # rows by the tokens that they have left
    rooms = 0  # bit r is set where with_room[r] is not empty
    row_of = np.empty(len(lengths), dtype=np.int64)
    placed = rows = 0
    values, counts = np.unique(lengths, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = placed + count
        while placed < end:
            large_enough = rooms >> length
            if large_enough:
                room = length + (large_enough & -large_enough).bit_length() - 1
                found = np.concatenate(with_room.pop(room))
                rooms ^= 1 << room
            else:  # as many new rows as the rest of this length fills
                room = capacity
                found = np.arange(rows, rows - (placed - end) // (capacity // length))
                rows += len(found)
            each = room // length  # a row that has taken one piece has the least room and takes the next
            taken = min(end - placed, each * len(found))
            row_of[placed : placed + taken] = np.repeat(found, each)[:taken]
            placed += taken
            full, rest = divmod(taken, each)
            for left, changed in (
                (room % length, found[:full]),
                (room - rest * length, found[full : full + (rest > 0)]),
                (room, found[full + (rest > 0) :]),
            ):
                if left and len(changed):
                    with_room.setdefault(left, []).append(changed)
                    rooms |= 1 << left
    return row_of


def even_steps(rows: int, batch_rows: int) -> np.ndarray:
    """Return where each step begins, (steps + 1,): as few steps as hold the rows, all of them equally full.

    A last step of few rows would move the weights as far as any other, on less evidence.

    >>> even_steps(7, 3).tolist()
    [0, 2, 4, 7]
    """
    steps = -(-rows // batch_rows)
    return np.arange(steps + 1) * rows // max(1, steps)


def bucket_starts(widths: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Return where each step begins, (steps + 1,): rows of falling `widths`, each padded to the first of its step.

    As few steps as `batch_tokens` allows, of which the fullest is as small as it can be: so they are much alike.
    """
    fewest = len(_greedy_starts(widths, batch_tokens))
    low, high = 1, batch_tokens
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_greedy_starts(widths, middle)) == fewest else (middle + 1, high)
    return np.array(_greedy_starts(widths, low))


def _greedy_starts(widths: np.ndarray, batch_tokens: int) -> list[int]:
    starts = [0]
    while starts[-1] < len(widths):
        rows = max(1, batch_tokens // int(widths[starts[-1]]))
        starts.append(min(len(widths), starts[-1] + rows))
    return starts
