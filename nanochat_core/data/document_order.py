"""Which documents come when, and to whom: a function of the shards, the seed and the epoch alone. Torch-free.

The unit is the row group of a shard. Each epoch visits all of them in an order of its own; a *turn* is a place in that
order, counted on over the epochs. The documents of the shards are dealt to `lanes`, document i to lane i mod L: each
lane packs rows of its own, and a rank works for the lanes r, r + W, … and reads no other's documents.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from nanochat_core.data.shards import row_groups
from nanochat_core.errors import DataError


class DocumentOrder:
    """The turns of all epochs. Raises DataError where the shards have fewer documents than there are lanes."""

    def __init__(self, paths: Sequence[Path], *, lanes: int, seed: int) -> None:
        self.paths = list(paths)
        self.groups = row_groups(paths)
        self.lanes = lanes
        self._seed = seed
        self._first_document = np.cumsum([0] + [rows for _, _, rows in self.groups])
        if self.documents < lanes:
            raise DataError(
                f"The training shards hold {self.documents} documents, fewer than the {lanes} lanes of a step. "
                "Add text, or lower total_batch_tokens."
            )
        self._permutation = lru_cache(maxsize=4)(self._permuted)

    @property
    def documents(self) -> int:
        """Documents in an epoch."""
        return int(self._first_document[-1])

    @property
    def turns(self) -> int:
        """Turns in an epoch."""
        return len(self.groups)

    def places(self) -> list[tuple[int, int]]:
        """Return for each row group the number of its shard, and of its first document within that."""
        found: list[tuple[int, int]] = []
        for index, (path, group, _) in enumerate(self.groups):
            if group:
                shard, first = found[-1]
                found.append((shard, first + self.groups[index - 1][2]))
            else:
                found.append((self.paths.index(path), 0))
        return found

    def group(self, turn: int) -> int:
        """Return which row group has this turn."""
        epoch, place = divmod(turn, self.turns)
        return int(self._permutation(epoch)[place])

    def own(self, turn: int, lane: int) -> range:
        """Return which documents of that row group, counted within it, are the lane's."""
        group = self.group(turn)
        first, end = self._first_document[group], self._first_document[group + 1]
        return range(int(lane - first) % self.lanes, int(end - first), self.lanes)

    def document(self, turn: int, number: int, lane: int) -> tuple[str, int]:
        """Return the shard's name and the place in it of a lane's document `number` in a turn."""
        shard, first = self.places()[self.group(turn)]
        return self.paths[shard].name, first + self.own(turn, lane)[number]

    def _permuted(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self.turns)
