"""Rows of tokens that begin alike as one line in which each beginning stands once: many answers to few questions.

    row 1   a b c d e        line      a b c d e f g h
    row 2   a b c f g h      position  0 1 2 3 4 3 4 5

All products of a model run over the line. Only attention looks at rows: they are gathered from the line in pieces of
like length, so that little of a piece is filling, and whatever computes attention finds whole rows.

N tokens of the line, R rows of a piece, T tokens of its longest, H heads, D head size, C width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.model.attention import Attend

LONGER = 2.0  # times as long as its shortest row may the longest of a piece be


@dataclass(frozen=True)
class SharedRows:
    """The line of some rows.

    ids, positions, before: of each token its id (1, N), its position in its rows and the place of the token in front of
    it, −1 for none (N,). pieces: the places (R, T) of the tokens of rows that attend together. found: where each token
    is among those of all pieces, one behind the other (N,). paths: of each row the places of its tokens.
    """

    ids: Tensor
    positions: Tensor
    before: Tensor
    pieces: list[Tensor]
    found: Tensor
    paths: list[np.ndarray]

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], shared: Sequence[int], device: torch.device) -> "SharedRows":
        """Return the line of rows of ids, of which `shared` say how many first ids each has in common with the one
        before it (0 for the first)."""
        paths: list[np.ndarray] = []
        own, positions, before, length = [], [], [], 0
        for row, count in zip(rows, shared, strict=True):
            path = np.concatenate([paths[-1][:count] if count else [], length + np.arange(len(row) - count)])
            paths.append(path.astype(np.int64))
            length += len(row) - count
            own.append(row[count:])
            positions.append(np.arange(count, len(row)))
            before.append(np.concatenate([[-1], paths[-1]])[count : len(row)])
        pieces, found, start = [], np.zeros(length, dtype=np.int64), 0
        for piece in alike([len(row) for row in rows]):
            places = np.zeros((len(piece), len(rows[piece[-1]])), dtype=np.int64)
            for number, row in enumerate(piece):
                places[number, : len(paths[row])] = paths[row]
                found[paths[row]] = start + number * places.shape[1] + np.arange(len(paths[row]))
            pieces.append(torch.from_numpy(places).to(device))
            start += places.size
        parts = (np.concatenate(part).astype(np.int64) for part in (own, positions, before))
        ids, places_in_rows, in_front = (torch.from_numpy(part).to(device) for part in parts)
        return cls(ids[None], places_in_rows, in_front, pieces, torch.from_numpy(found).to(device), paths)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, attend: Attend) -> Tensor:
        """Return the attention (1, H, N, D) of q (1, H, N, D) and k, v (1, K, N, D) of the line, as `attend` has it."""
        outputs = []
        for places in self.pieces:
            y = attend(*(_gathered(x, places) for x in (q, k, v)), window)  # (R, H, T, D)
            outputs.append(y.transpose(1, 2).flatten(0, 1).flatten(1))  # (R·T, H·D)
        y = F.embedding(self.found, torch.cat(outputs))  # (N, H·D)
        return y.unflatten(1, (-1, q.size(3)))[None].transpose(1, 2)

    def states_before(self, x: Tensor) -> Tensor:
        """Return of x (1, N, C) the state before each token in its row, zeros where there is none."""
        return F.embedding(self.before.clamp(min=0), x[0])[None] * (self.before >= 0)[:, None].to(x.dtype)


def _gathered(x: Tensor, places: Tensor) -> Tensor:
    """Return the rows (R, H, T, D) of x (1, H, N, D)."""
    heads = x.size(1)
    flat = x[0].transpose(0, 1).reshape(-1, x.size(3))  # (N·H, D)
    wanted = places[:, None] * heads + torch.arange(heads, device=places.device)[:, None]  # (R, H, T)
    return F.embedding(wanted, flat)  # its gradient is summed in a fixed order


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return the numbers of rows in pieces of like length, each piece and its rows from the shortest on.

    >>> alike([5, 30, 6, 10, 18])
    [[0, 2, 3], [4, 1]]
    """
    pieces: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if pieces and lengths[row] <= LONGER * lengths[pieces[-1][0]]:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces
