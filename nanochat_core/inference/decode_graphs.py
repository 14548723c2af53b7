"""Decoding as recorded CUDA graphs: a step of one token for each row is one launch, whatever the host does meanwhile.

A graph has a fixed shape, so there is one for each bucket of rows and of keys, recorded when it is first needed. What
changes from step to step comes in one tensor that is copied in before the replay; rows that are not there write into a
slot that nobody reads. Where there is no CUDA the same pass runs without being recorded: tests compare it so.

B rows of a bucket, S keys of a bucket, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.inference.forward import Batch, Segment, forward
from nanochat_core.inference.kv_memory import KVMemory
from nanochat_core.inference.weights import InferenceWeights

SMALLEST_KEYS = 256
WARM_UP_RUNS = 2


@dataclass(frozen=True)
class Decoding:
    """One row's new token: its slot, its position, its id and the id before it (−1: none)."""

    slot: int
    position: int
    token: int
    before: int


def bucket(count: int, smallest: int, largest: int) -> int:
    """Return the power of two times `smallest` that holds `count`, `largest` at most.

    >>> [bucket(count, 1, 12) for count in (1, 3, 8, 9)], bucket(300, 256, 2048)
    ([1, 4, 8, 12], 512)
    """
    size = smallest
    while size < count:
        size *= 2
    return min(size, largest)


class _Recorded:
    """The pass for one bucket: `columns` (4, B) holds ids, positions, ids before, and whether a row is there."""

    def __init__(self, weights: InferenceWeights, memory: KVMemory, turns: Tensor, rows: int, keys: int) -> None:
        self._weights, self._memory, self._turns, self._rows, self._keys = weights, memory, turns, rows, keys
        self.columns = torch.zeros(4, rows, dtype=torch.int64, device=memory.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._states: Tensor | None = None

    def run(self) -> Tensor:
        """Return the states (B, C) for what is in `columns`."""
        if self._memory.device.type != "cuda":
            return self._pass()
        if self._graph is None:
            self._record()
        assert self._graph is not None and self._states is not None
        self._graph.replay()
        return self._states

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._pass()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._states = self._pass()

    def _pass(self) -> Tensor:
        ids, positions, before, is_there = self.columns
        memory, dtype = self._memory, self._weights.dtype
        slots = torch.where(is_there > 0, torch.arange(self._rows, device=memory.device), memory.spare_slot)
        segment = Segment(slice(0, self._rows), slice(0, self._rows))
        keys = torch.arange(self._keys, device=memory.device)
        for window in {layer.window for layer in self._weights.layers}:
            visible = keys <= positions[:, None]
            if window is not None:
                visible &= keys >= positions[:, None] - window
            mask = torch.zeros(visible.shape, dtype=dtype, device=memory.device)
            segment.masks[window] = (0, self._keys, mask.masked_fill_(~visible, float("-inf"))[:, None, None])
        batch = Batch(
            ids=ids,
            places=memory.places(slots, positions),
            turns=self._turns[positions][:, None],
            segments=[segment],
            first=None,
            before=before.clamp(min=0),
            known=(before >= 0).to(dtype)[:, None],
        )
        return forward(self._weights, memory, batch)


class DecodeGraphs:
    """All recorded passes over one memory and one state of the weights."""

    def __init__(self, weights: InferenceWeights, memory: KVMemory, turns: Tensor) -> None:
        self._weights, self._memory, self._turns = weights, memory, turns
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def decode(self, rows: Sequence[Decoding]) -> Tensor:
        """Put the new tokens into the memory; return the normalised last states (rows, C)."""
        size = bucket(max(row.slot for row in rows) + 1, 1, self._memory.slots)
        keys = bucket(max(row.position for row in rows) + 1, SMALLEST_KEYS, self._memory.shape.capacity)
        if (size, keys) not in self._recorded:
            self._recorded[size, keys] = _Recorded(self._weights, self._memory, self._turns, size, keys)
        recorded = self._recorded[size, keys]
        columns = [[0, 0, -1, 0] for _ in range(size)]
        for row in rows:
            columns[row.slot] = [row.token, row.position, row.before, 1]
        recorded.columns.copy_(torch.tensor(columns).t())
        states = recorded.run()
        slots = [row.slot for row in rows]
        return states[: len(rows)] if slots == list(range(len(rows))) else states[slots]
