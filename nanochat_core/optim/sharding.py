"""Which rank keeps what, and how gradients get there and weights back."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

Wait = Callable[[], object]


def matrix_cost(rows: int, columns: int) -> int:
    """Return the work of orthogonalising an m x n matrix, in multiply-adds of one iteration: 2·s²·l + s³.

    s is the shorter side and l the longer: the Gram matrix, its square, and the product with X.
    """
    short, long = sorted((rows, columns))
    return 2 * short * short * long + short**3


def owners_by_cost(counts: dict[tuple[int, int], int], ranks: int) -> dict[tuple[int, int], list[int]]:
    """Return for each shape the owner of each of its matrices: costly ones first, each to the rank with least to do.

    No rank gets more of a shape than an even share, rounded up, for what a shape sends is as long for every rank.

    >>> owners_by_cost({(4, 4): 3, (8, 4): 1}, 2)
    {(8, 4): [0], (4, 4): [1, 1, 0]}
    """
    load = [0] * ranks
    owners: dict[tuple[int, int], list[int]] = {}
    for shape in sorted(counts, key=lambda shape: (-matrix_cost(*shape), shape)):
        most = -(-counts[shape] // ranks)
        owners[shape] = []
        for _ in range(counts[shape]):
            open_ranks = [rank for rank in range(ranks) if owners[shape].count(rank) < most]
            rank = min(open_ranks, key=lambda rank: (load[rank], rank))
            owners[shape].append(rank)
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
