"""Requests that begin alike as one row of tokens, in which what they have in common stands once.

request 1  The capital of France is | Paris.        row   The capital of France is Paris. | Rome. | Berlin.
request 2  The capital of France is | Rome.         place 0   1       2  3      4  5        6       7
request 3  The capital of France is | Berlin.       position                       5        5       5
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nanochat_core.inference.prefixes import common_prefix

MAX_PLACES = 4096  # of a row of several requests: its mask has as many columns, and nearly as many lines


@dataclass(frozen=True)
class ToScore:
    """Ids (T,); those from `start` (at least 1) on are scored. start = T: the logits after the last id are wanted."""

    index: int
    ids: np.ndarray
    start: int

    @property
    def wanted(self) -> slice:
        """Return the positions whose states are asked for: those before scored ids, or the last one."""
        return slice(self.start - 1, max(self.start, len(self.ids) - 1))

    def order(self) -> list[int]:
        """Return what requests are sorted by, so that those that begin alike are neighbours."""
        return self.ids.tolist()


class TokenTree:
    """A row: sorted requests, behind `kept` tokens that all have and whose keys are there already.

    ids, positions: of the new tokens (N,). end: the places of the row, kept ones included.
    """

    def __init__(self, requests: Sequence[ToScore], kept: int) -> None:
        self.requests, self.kept, self.end = requests, kept, kept
        self._paths: list[np.ndarray] = []  # of each request, the place of each of its tokens
        self._shared: list[int] = []  # of each request, how many first tokens are an earlier one's, or kept
        path, before = np.arange(kept), requests[0].ids[:kept]
        for request in requests:
            shared = common_prefix(before, request.ids)
            path = np.concatenate([path[:shared], np.arange(self.end, self.end + len(request.ids) - shared)])
            before, self.end = request.ids, self.end + len(request.ids) - shared
            self._paths.append(path)
            self._shared.append(shared)
        self.ids = np.concatenate([r.ids[shared:] for r, shared in zip(requests, self._shared, strict=True)])
        self.positions = np.concatenate(
            [np.arange(shared, len(path)) for path, shared in zip(self._paths, self._shared, strict=True)]
        )

    def __len__(self) -> int:
        """Return how many tokens are to be computed."""
        return self.end - self.kept

    @property
    def first_length(self) -> int:
        """Return how many of the new tokens are the first request's."""
        return len(self.requests[0].ids) - self.kept

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield where the tokens of each request begin among the new ones, and the id before them, −1 for none."""
        place = 0
        for request, shared in zip(self.requests, self._shared, strict=True):
            if shared < len(request.ids):
                yield place, int(request.ids[shared - 1]) if shared else -1
                place += len(request.ids) - shared

    @cached_property
    def wanted_by_request(self) -> list[np.ndarray]:
        """Of each request, which of the new tokens' states it asks for."""
        return [path[request.wanted] - self.kept for request, path in zip(self.requests, self._paths, strict=True)]

    @cached_property
    def wanted(self) -> np.ndarray:
        """The new tokens whose states are asked for, each once, in order (W,)."""
        return np.unique(np.concatenate(self.wanted_by_request))

    def visible(self, queries: np.ndarray, window: int | None) -> np.ndarray:
        """Return which places (end,) each of the new tokens `queries` (n,) sees: bool (n, end).

        `window`: how many positions before its own, None for all.
        """
        seen = np.zeros((len(queries), self.end), dtype=bool)
        first = self.kept
        for path, shared in zip(self._paths, self._shared, strict=True):
            last = first + len(path) - shared
            rows = np.flatnonzero((queries + self.kept >= first) & (queries + self.kept < last))
            if len(rows):
                seen[np.ix_(rows, path)] = path <= queries[rows, None] + self.kept
            first = last
        if window is not None:
            positions = np.concatenate([np.arange(self.kept), self.positions])
            seen &= self.positions[queries, None] - positions <= window
        return seen


def token_trees(requests: Sequence[ToScore], kept: int, width: int) -> list[TokenTree]:
    """Return rows for requests that all begin with the same `kept` ids, the shortest row first.

    A request joins the one before it where that costs less: the tokens in common are saved, 24·C² operations each in a
    layer of width C, and its others attend in vain to what else is in the row, 4·C operations each.
    """
    groups: list[list[ToScore]] = []
    places = 0
    for request in sorted(requests, key=ToScore.order):
        if groups:
            shared = common_prefix(groups[-1][-1].ids, request.ids)
            own = len(request.ids) - shared
            is_cheaper = 6 * width * (shared - kept) > own * (places - shared)
            if is_cheaper and places + own <= MAX_PLACES:
                groups[-1].append(request)
                places += own
                continue
        groups.append([request])
        places = len(request.ids)
    return sorted((TokenTree(group, kept) for group in groups), key=len)
