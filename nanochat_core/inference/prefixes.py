"""Keys and values that were computed once: finished rows that another request may begin like.

Entries are copies, so that rows that run always lie in slots of their own; the longest unused goes first. All of it is
worth nothing once the weights have changed.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from nanochat_core.inference.kv_memory import KVMemory, StoredRow


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first ids are equal.

    >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


@dataclass
class StoredPrefix:
    """A row's ids, its keys and values, and its pages. A prefix shorter than `first_usable` misses its windows."""

    ids: np.ndarray
    row: StoredRow
    first_usable: int
    pages: int

    def usable(self, prompt: np.ndarray) -> int:
        """Return how much of a prompt need not be computed; its last id always is."""
        common = min(common_prefix(self.ids, prompt), len(prompt) - 1)
        return common if common >= self.first_usable else 0


class PrefixStore:
    """Finished rows, the least recently used first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, StoredPrefix] = OrderedDict()
        self._number = 0
        self.pages = 0

    def best(self, prompt: np.ndarray) -> tuple[int, StoredPrefix | None]:
        """Return the longest usable prefix of a prompt and where it is stored; it counts as used now."""
        found = max(((entry.usable(prompt), key) for key, entry in self._entries.items()), default=(0, -1))
        length, key = found
        if length == 0:
            return 0, None
        self._entries.move_to_end(key)
        return length, self._entries[key]

    def add(self, ids: np.ndarray, memory: KVMemory, slot: int) -> None:
        """Store a row's keys and values; entries that it can stand in for are given up."""
        first_usable, pages = memory.first_usable(slot), memory.shape.pages(len(ids))
        for key, old in list(self._entries.items()):
            if first_usable < len(old.ids) <= len(ids) and common_prefix(old.ids, ids) == len(old.ids):
                self._drop(key)
        entry = StoredPrefix(ids, memory.stored(slot, len(ids)), first_usable, pages)
        self._number += 1
        self._entries[self._number] = entry
        self.pages += pages

    def give_up(self, pages: int) -> int:
        """Drop entries, the least recently used first, until that many pages are freed; return how many were."""
        freed = 0
        while freed < pages and self._entries:
            freed += self._drop(next(iter(self._entries)))
        return freed

    def clear(self) -> None:
        self._entries.clear()
        self.pages = 0

    def _drop(self, key: int) -> int:
        entry = self._entries.pop(key)
        self.pages -= entry.pages
        return entry.pages
