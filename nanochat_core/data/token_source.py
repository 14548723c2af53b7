"""Where a lane's documents come from as ids: tokenised shards, or text that is encoded on the fly. Torch-free.

Both give the same documents in the same order. Tokenised shards are for text that is read more than once, by several
epochs or runs; on the fly nothing is written, and worker processes encode ahead of the training.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.data.token_shards import TokenShard


class TokenSource(Protocol):
    """Gives the ids of documents, without BOS."""

    def documents(self, turn: int, lane: int) -> list[np.ndarray]:
        """Return the lane's documents of a turn. Each lane asks for its turns in order, once."""
        ...

    def again(self, turn: int, lanes: Sequence[int]) -> dict[int, list[np.ndarray]]:
        """Return, by lane, the documents of a turn that lanes have passed: what a checkpoint's buffers point at."""
        ...

    def start(self, next_turn: dict[int, int]) -> None:
        """Begin in the middle: each lane will ask for this turn next."""
        ...

    def close(self) -> None: ...


class CachedTokens:
    """Documents of tokenised shards, mapped. `shards` are in the order of the text shards that `order` was made of."""

    def __init__(self, shards: Sequence[Path], order: DocumentOrder) -> None:
        self._order = order
        mapped = [TokenShard.open(path) for path in shards]
        self._places = [(mapped[shard], first) for shard, first in order.places()]

    def documents(self, turn: int, lane: int) -> list[np.ndarray]:
        shard, first = self._places[self._order.group(turn)]
        return [shard.document(first + index) for index in self._order.own(turn, lane)]

    def again(self, turn: int, lanes: Sequence[int]) -> dict[int, list[np.ndarray]]:
        return {lane: self.documents(turn, lane) for lane in lanes}

    def start(self, next_turn: dict[int, int]) -> None:
        """Nothing is prepared ahead."""

    def close(self) -> None:
        """Nothing to close: a mapping ends with its arrays."""


class Job(NamedTuple):
    """The documents of some lanes in one turn, being encoded. `sizes` is how many documents each lane has."""

    sizes: dict[int, int]
    encoded: "Future[list[np.ndarray]]"

    def result(self) -> dict[int, list[np.ndarray]]:
        """Return the documents by lane."""
        documents = iter(self.encoded.result())
        return {lane: list(itertools.islice(documents, size)) for lane, size in self.sizes.items()}


class EncodedTokens:
    """Documents that are encoded when their turn comes near, ahead of it by `ahead` turns."""

    def __init__(self, workers: EncodingWorkers, order: DocumentOrder, own_lanes: Sequence[int], *, ahead: int) -> None:
        self._workers, self._order, self._ahead = workers, order, ahead
        self._next_turn = dict.fromkeys(own_lanes, 0)
        self._jobs: dict[int, Job] = {}
        self._ready: dict[int, dict[int, list[np.ndarray]]] = {}

    def documents(self, turn: int, lane: int) -> list[np.ndarray]:
        for later in range(turn, turn + 1 + self._ahead):
            if later not in self._jobs and later not in self._ready:
                lanes = [own for own, following in self._next_turn.items() if following <= later]
                self._jobs[later] = self._begin(later, lanes)
        if turn in self._jobs:
            self._ready[turn] = self._jobs.pop(turn).result()
        self._next_turn[lane] = turn + 1
        found = self._ready[turn].pop(lane)
        if not self._ready[turn]:
            del self._ready[turn]
        return found

    def again(self, turn: int, lanes: Sequence[int]) -> dict[int, list[np.ndarray]]:
        return self._begin(turn, lanes).result()

    def start(self, next_turn: dict[int, int]) -> None:
        self._next_turn = dict(next_turn)
        self._jobs.clear()
        self._ready.clear()

    def close(self) -> None:
        self._workers.close()

    def _begin(self, turn: int, lanes: Sequence[int]) -> Job:
        path, group, _ = self._order.groups[self._order.group(turn)]
        own = {lane: self._order.own(turn, lane) for lane in lanes}
        documents = [index for indices in own.values() for index in indices]
        return Job({lane: len(indices) for lane, indices in own.items()}, self._workers.submit(path, group, documents))
