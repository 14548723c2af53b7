"""Memory for keys and values: as many rows as may run, each with room for the longest context.

On a CPU a row has its addresses from the start and its memory only where tokens are: the operating system's own page
tables do what a table of blocks does elsewhere, and attention still reads one contiguous array. What a row no longer
needs goes back at once. On CUDA all of it is allocated once.

L layers, K key/value heads, S capacity in tokens, D head size; layers are (slots, K, S, D).
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAGE_TOKENS = 64
GIVES_BACK = hasattr(mmap, "MADV_DONTNEED") and hasattr(mmap.mmap, "madvise")


@dataclass(frozen=True)
class KVShape:
    """What one row needs. `windows`: for each layer how many earlier keys a position sees, None for all."""

    windows: tuple[int | None, ...]
    heads: int
    head_size: int
    capacity: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer."""
        return 2 * self.heads * self.head_size * self.dtype.itemsize

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: `PAGE_TOKENS` tokens in one layer."""
        return PAGE_TOKENS * self.token_bytes

    def first_needed(self, layer: int, length: int) -> int:
        """Return the first position whose key a layer needs for a row of `length` tokens to go on, in whole pages.

        Windowed layers keep a page more than their window, so that an answer can be asked for again.
        """
        window = self.windows[layer]
        if window is None:
            return 0
        return max(0, length - window - PAGE_TOKENS) // PAGE_TOKENS * PAGE_TOKENS

    def pages(self, length: int) -> int:
        """Return the pages of a row of `length` tokens, over all layers."""
        filled = math.ceil(length / PAGE_TOKENS)
        return sum(filled - self.first_needed(layer, length) // PAGE_TOKENS for layer in range(len(self.windows)))


class _Region:
    """One tensor (slots, K, S, D) whose parts can be given back."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self._map: mmap.mmap | None = None
        if device.type == "cpu" and GIVES_BACK:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
            self._map = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would take two megabytes for one token
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
            self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*shape)
        else:
            self.tensor = torch.zeros(*shape, dtype=dtype, device=device)

    def give_back(self, slot: int, start: int, end: int) -> None:
        """Let go of the positions from start to end of a slot: they read as zeros then."""
        if self._map is None:
            return
        _, heads, capacity, head_size = self.tensor.shape
        size = head_size * self.tensor.element_size()
        for head in range(heads):
            row = (slot * heads + head) * capacity
            first = -(-(row + start) * size // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (row + end) * size // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


class KVMemory:
    """Keys and values of all rows, and which positions of each are kept."""

    def __init__(self, shape: KVShape, slots: int, device: torch.device) -> None:
        self.shape, self.slots, self.device = shape, slots, device
        self.spare_slot = slots  # one more, which nobody reads: where a recorded pass writes what it has no row for
        sizes = (slots + 1, shape.heads, shape.capacity, shape.head_size)
        self._regions = [
            (_Region(sizes, shape.dtype, device), _Region(sizes, shape.dtype, device)) for _ in shape.windows
        ]
        self.keys = [keys.tensor for keys, _ in self._regions]
        self.values = [values.tensor for _, values in self._regions]
        self._flat_keys = [keys.view(-1, shape.head_size) for keys in self.keys]
        self._flat_values = [values.view(-1, shape.head_size) for values in self.values]
        self._heads = torch.arange(shape.heads, device=device) * shape.capacity
        self._kept_from = [[0] * len(shape.windows) for _ in range(slots)]
        self._pages_of: dict[int, int] = {}
        self._touched = [0] * slots  # tokens whose memory a slot has, or had and gave back in parts

    def places(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return where the tokens at `positions` (N,) of `slots` (N,) go, for each head: (N·K,)."""
        rows = slots * (self.shape.heads * self.shape.capacity) + positions
        return (rows[:, None] + self._heads).view(-1)

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values (N, K, D) of new tokens."""
        self._flat_keys[layer].index_copy_(0, places, keys.reshape(-1, self.shape.head_size))
        self._flat_values[layer].index_copy_(0, places, values.reshape(-1, self.shape.head_size))

    def first_usable(self, slot: int) -> int:
        """Return the shortest prefix of a slot that another row can go on from: its windows must be whole."""
        kept = zip(self._kept_from[slot], self.shape.windows, strict=True)
        return max((start + window for start, window in kept if window is not None and start > 0), default=0)

    def trim(self, slot: int, length: int) -> None:
        """Give back what a row of `length` tokens needs no more: keys before the windows."""
        kept = self._kept_from[slot]
        for layer, window in enumerate(self.shape.windows):
            if window is None:
                continue
            needed = self.shape.first_needed(layer, length)
            if needed > kept[layer]:
                self._give_back(layer, slot, kept[layer], needed)
                kept[layer] = needed

    def leave(self, slot: int, length: int) -> None:
        """End a row of at most `length` tokens. The slot keeps its memory for the next one: new pages cost time."""
        self._touched[slot] = max(self._touched[slot], length)
        for layer, kept in enumerate(self._kept_from[slot]):
            if kept:  # the next row begins where there is none
                self._give_back(layer, slot, kept, self._end(slot))
        self._kept_from[slot] = [0] * len(self.shape.windows)

    def pages(self, slot: int, length: int) -> int:
        """Return the pages of a row of `length` tokens in a slot, with what the slot still has of earlier rows."""
        length = max(length, self._touched[slot])
        if length not in self._pages_of:  # it is asked for each row at each step
            self._pages_of[length] = self.shape.pages(length)
        return self._pages_of[length]

    def give_back(self, slot: int) -> None:
        """Give back all memory of a slot that no row is in."""
        for layer in range(len(self.shape.windows)):
            self._give_back(layer, slot, 0, self._end(slot))
        self._touched[slot] = 0

    def _end(self, slot: int) -> int:
        """Return where the memory that a slot has ever had ends."""
        return min(-(-self._touched[slot] // PAGE_TOKENS) * PAGE_TOKENS, self.shape.capacity)

    def _give_back(self, layer: int, slot: int, start: int, end: int) -> None:
        for region in self._regions[layer]:
            region.give_back(slot, start, end)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make `target` begin as `source` does, for `length` tokens."""
        for layer, kept in enumerate(self._kept_from[source]):
            start = max(kept, self.shape.first_needed(layer, length))
            for tensor in (self.keys[layer], self.values[layer]):
                tensor[target, :, start:length] = tensor[source, :, start:length]
            self._kept_from[target][layer] = start
