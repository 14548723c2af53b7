"""Which rank keeps what, and how gradients get there and weights back."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat_core.distributed import World

Wait = Callable[[], object]


def matrix_cost(rows: int, columns: int) -> int:
    """Return the work of orthogonalising an m x n matrix, in multiply-adds of one iteration: 2·s²·l + s³.

    s is the shorter side and l the longer: the Gram matrix, its square, and the product with X.
    """
    short, long = sorted((rows, columns))
    return 2 * short * short * long + short**3


def owners_by_cost(stacks: Sequence[tuple[tuple[int, int], int]], ranks: int) -> list[list[int]]:
    """Return, for each stack of (shape, count), the owner of each matrix: costly ones first, to who has least to do.

    No rank gets more of a stack than an even share, rounded up, for what a stack sends is as long for every rank.

    >>> owners_by_cost([((4, 4), 3), ((8, 4), 1)], 2)
    [[1, 1, 0], [0]]
    """
    load = [0] * ranks
    owners: list[list[int]] = [[] for _ in stacks]
    for number in sorted(range(len(stacks)), key=lambda number: -matrix_cost(*stacks[number][0])):
        shape, count = stacks[number]
        for _ in range(count):
            open_ranks = [rank for rank in range(ranks) if owners[number].count(rank) < -(-count // ranks)]
            rank = min(open_ranks, key=lambda rank: (load[rank], rank))
            owners[number].append(rank)
            load[rank] += matrix_cost(*shape)
    return owners


def start_reduce_scatter(own: Tensor, of_all: Tensor) -> Wait:
    """Begin to sum `of_all` (W·n, …) over the W ranks, each rank's n rows into its `own` (n, …); return how to wait."""
    return dist.reduce_scatter_single(own, of_all, async_op=True).wait


def start_all_gather(of_all: Tensor, own: Tensor) -> Wait:
    """Begin to fill `of_all` (W·n, …) with every rank's `own` (n, …), in order; return how to wait."""
    return dist.all_gather_single(of_all, own.contiguous(), async_op=True).wait


def padded_rows(x: Tensor, rows: int) -> Tensor:
    """Return x (n, …) with zeros behind up to `rows` rows; x itself where it has as many."""
    if x.size(0) == rows:
        return x
    return torch.cat([x, x.new_zeros(rows - x.size(0), *x.shape[1:])])


class OrderedStarts:
    """Starts each part's reduction when all its gradients are there, in one order on every rank.

    Ranks that differ in what they computed (one without rows has no gradients at all) must still send in the same
    order: a part waits for those before it.
    """

    def __init__(self, parts: Sequence[tuple[Callable[[], None], Sequence[nn.Parameter]]], world: World) -> None:
        self._starts = [start for start, _ in parts]
        self._sizes = [len(parameters) for _, parameters in parts]
        self._missing: list[int] | None = None  # gradients, of each part, in the last backward pass
        self._next = 0
        if world.size > 1:
            for number, (_, parameters) in enumerate(parts):
                for parameter in parameters:
                    parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def arm(self) -> None:
        """Start parts from now on, in the last backward pass."""
        self._missing = list(self._sizes)

    def disarm(self) -> None:
        """Start nothing until armed again: the passes are made anew. What is on its way is whole, and stays so."""
        self._missing = None

    def _arrived(self, number: int, _: Tensor) -> None:
        if self._missing is None:
            return
        self._missing[number] -= 1
        while self._next < len(self._starts) and self._missing[self._next] <= 0:
            self._starts[self._next]()
            self._next += 1

    def start_the_rest(self) -> None:
        """Start what is not on its way."""
        for start in self._starts[self._next :]:
            start()
        self._next = len(self._starts)

    def begin_anew(self) -> int:
        """Forget what was started, for the next step; return how many parts that were."""
        started, self._next, self._missing = self._next, 0, None
        return started
