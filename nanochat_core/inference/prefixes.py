"""Keys and values that were computed once: finished rows that another request may begin like.

They lie in slots of their own, as copies, so that the rows that run are next to each other; the longest unused goes
first. All of it is worth nothing once the weights have changed.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nanochat_core.inference.kv_memory import KVMemory


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first ids are equal.

    >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


@dataclass(frozen=True)
class StoredPrefix:
    """A row's ids, the slot with its keys and values, and its pages. Shorter than `first_usable` it misses windows."""

    ids: np.ndarray
    slot: int
    first_usable: int
    pages: int

    def usable(self, prompt: np.ndarray) -> int:
        """Return how much of a prompt need not be computed; its last id always is."""
        common = min(common_prefix(self.ids, prompt), len(prompt) - 1)
        return common if common >= self.first_usable else 0


class PrefixStore:
    """Finished rows in `slots` of a memory, the least recently used first."""

    def __init__(self, memory: KVMemory, slots: Iterable[int]) -> None:
        self._memory, self.free_slots = memory, list(slots)
        self._entries: OrderedDict[int, StoredPrefix] = OrderedDict()  # by slot
        self.pages = 0

    def best(self, prompt: np.ndarray) -> tuple[int, StoredPrefix | None]:
        """Return the longest usable prefix of a prompt and where it is stored; it counts as used now."""
        length, slot = max(((entry.usable(prompt), slot) for slot, entry in self._entries.items()), default=(0, -1))
        if length == 0:
            return 0, None
        self._entries.move_to_end(slot)
        return length, self._entries[slot]

    def add(self, ids: np.ndarray, source: int) -> None:
        """Store the row in the slot `source`; entries that it can stand in for are given up."""
        first_usable = self._memory.first_usable(source)
        for slot, old in list(self._entries.items()):
            if first_usable < len(old.ids) <= len(ids) and common_prefix(old.ids, ids) == len(old.ids):
                self._drop(slot)
        if not self.free_slots:
            if not self._entries:
                return
            self._drop(next(iter(self._entries)))
        slot = self.free_slots.pop()
        self._memory.copy_row(source, slot, len(ids))
        entry = StoredPrefix(ids, slot, self._memory.first_usable(slot), self._memory.pages(slot, len(ids)))
        self._entries[slot] = entry
        self.pages += entry.pages

    def give_up(self, pages: int) -> int:
        """Drop entries, the least recently used first, until that many pages are freed; return how many were."""
        freed = 0
        while freed < pages and self._entries:
            slot = next(iter(self._entries))
            freed += self._drop(slot)
            self._memory.give_back(slot)
        return freed

    def clear(self) -> None:
        for slot in list(self._entries):
            self._drop(slot)

    def _drop(self, slot: int) -> int:
        entry = self._entries.pop(slot)
        self._memory.leave(slot, len(entry.ids))
        self.free_slots.append(slot)
        self.pages -= entry.pages
        return entry.pages
