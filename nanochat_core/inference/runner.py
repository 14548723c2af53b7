"""From rows with new tokens to one forward pass: positions, masks, and which rows attend in one call.

Rows that decode (one new token) and lie in neighbouring slots attend together, as long as what is read in vain costs
less than another call. On CUDA a step in which all rows decode is a recorded graph (`decode_graphs.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from nanochat_core.inference.decode_graphs import DecodeGraphs, Decoding
from nanochat_core.inference.forward import Batch, Ending, Segment, forward
from nanochat_core.inference.kv_memory import KVMemory, KVShape
from nanochat_core.inference.live_weights import LiveWeights
from nanochat_core.inference.scoring import CPU_BATCH_TOKENS, Scorer
from nanochat_core.inference.weights import FewBits, convert, weights_version
from nanochat_core.model.accounting import kv_width
from nanochat_core.model.blocks import rope_base
from nanochat_core.model.gpt import GPT, rotary_tables

WASTED_BYTES = 400_000  # reading so many takes as long as one more call of the attention


@dataclass(frozen=True)
class Chunk:
    """New tokens of one row. before: the id in front of them, −1 for none. wanted: whose states are asked for."""

    slot: int
    start: int
    ids: Sequence[int]
    before: int
    wanted: Sequence[int] = ()


class Runner:
    """A model's weights and the memory of its rows on one device."""

    def __init__(
        self,
        model: GPT,
        *,
        slots: int,
        capacity: int,
        few_bits: FewBits | None = None,
        shares_weights: bool = False,
    ) -> None:
        spec, self._few_bits = model.spec, few_bits
        self._live = LiveWeights(model, model.compute_dtype) if shares_weights else None
        self.weights = self._live.weights if self._live else convert(model, model.compute_dtype, few_bits)
        self.device, self.dtype = self.weights.device, self.weights.dtype
        windows = tuple(layer.window for layer in self.weights.layers)
        head_size = kv_width(spec) // spec.n_kv_head
        shape = KVShape(windows, spec.n_kv_head, head_size, capacity, self.dtype)
        self.memory = KVMemory(shape, slots, self.device)
        self._groups_of_heads, self._windows = spec.n_head // spec.n_kv_head, set(windows)
        cos, sin = rotary_tables(capacity, head_size, rope_base(spec, model.blocks_set), self.device)
        self._turns = torch.complex(cos, -sin)  # (S, D/2)
        self._graphs = DecodeGraphs(self.weights, self.memory, self._turns) if self.device.type == "cuda" else None

    def follow(self, model: GPT) -> bool:
        """Take the model's present weights; tell whether they have changed, and old keys are worth nothing."""
        if self.weights.version == weights_version(model):
            return False
        is_recorded_anew = True
        if self._live is not None:
            is_recorded_anew = self._live.refresh()
        else:
            self.weights = convert(model, self.dtype, self._few_bits)
        if self._graphs is not None and is_recorded_anew:
            self._graphs = DecodeGraphs(self.weights, self.memory, self._turns)
        return True

    def scorer(self, batch_tokens: int) -> Scorer:
        """Return what scores whole lists of requests with the present weights, so many tokens at once."""
        tokens = min(batch_tokens, CPU_BATCH_TOKENS) if self.device.type == "cpu" else batch_tokens
        return Scorer(self.weights, self._turns, self.memory.shape, self._groups_of_heads, tokens)

    def hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run the new tokens of all rows into the memory; return the normalised last states (wanted, C)."""
        if self._graphs is not None and all(len(chunk.ids) == len(chunk.wanted) == 1 for chunk in chunks):
            return self._graphs.decode(
                [Decoding(chunk.slot, chunk.start, chunk.ids[0], chunk.before) for chunk in chunks]
            )
        return forward(self.weights, self.memory, self._batch(chunks))

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (…, V) before the soft cap, which changes no order, in float32."""
        return self.weights.head(hidden).float()

    def _batch(self, chunks: Sequence[Chunk]) -> Batch:
        firsts = [0, *accumulate(len(chunk.ids) for chunk in chunks)]
        count = firsts.pop()
        positions = self._tensor([p for chunk in chunks for p in range(chunk.start, chunk.start + len(chunk.ids))])
        slots = self._tensor([chunk.slot for chunk in chunks for _ in chunk.ids])
        groups = list(self._groups(chunks))
        return Batch(
            ids=self._tensor([token for chunk in chunks for token in chunk.ids]),
            places=self.memory.places(slots, positions),
            turns=self._turns[positions][:, None],
            segments=list(self._segments(groups)),
            first=None if count == len(chunks) else self._tensor(firsts),
            before=self._tensor([max(0, chunk.before) for chunk in chunks]),
            known=self._tensor([[float(chunk.before >= 0)] for chunk in chunks]).to(self.dtype),
            ending=None if sum(len(chunk.wanted) for chunk in chunks) == count else self._ending(groups),
        )

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, device=self.device) if values else self._turns.new_zeros(0, dtype=torch.int64)

    def _groups(self, chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
        """Yield what attends in one call each, in order: the chunk of a prompt, or rows that decode."""
        group: list[Chunk] = []
        longest = total = 0  # keys of the group: the most of a row, and those of all rows
        for chunk in chunks:
            keys = max(longest, chunk.start)
            wasted = (keys * (len(group) + 1) - total - chunk.start) * self.memory.shape.token_bytes
            if group and not (may_join(group[-1], chunk) and wasted <= WASTED_BYTES * len(group)):
                yield group
                group, total, keys = [], 0, chunk.start
            group.append(chunk)
            longest, total = keys, total + chunk.start
        if group:
            yield group

    def _segments(self, groups: Sequence[list[Chunk]]) -> Iterator[Segment]:
        """Yield the segments of all new tokens, in their order."""
        offset = 0
        for group in groups:
            rows = slice(offset, offset := offset + sum(len(chunk.ids) for chunk in group))
            chunk = group[0]
            yield (
                self._decoding(group, rows)
                if len(chunk.ids) == 1
                else self._prefilling(chunk, rows, range(len(chunk.ids)))
            )

    def _ending(self, groups: Sequence[list[Chunk]]) -> Ending:
        """Return what goes through the last layer: rows that decode as they are, of prompts what is wanted."""
        kept: list[int] = []
        wanted: list[int] = []
        segments, offset = [], 0
        for group in groups:
            begin, chunk = len(kept), group[0]
            if len(chunk.ids) == 1:
                kept += range(offset, offset + len(group))
                wanted += [begin + place for place, member in enumerate(group) if member.wanted]
                segments.append(self._decoding(group, slice(begin, len(kept))))
            elif chunk.wanted:
                kept += [offset + place for place in chunk.wanted]
                wanted += range(begin, len(kept))
                segments.append(self._prefilling(chunk, slice(begin, len(kept)), chunk.wanted))
            offset += sum(len(member.ids) for member in group)
        return Ending(self._tensor(kept), segments, None if len(wanted) == len(kept) else self._tensor(wanted))

    def _decoding(self, group: list[Chunk], rows: slice) -> Segment:
        segment = Segment(rows, slice(group[0].slot, group[-1].slot + 1))
        shortest, longest = (f(chunk.start for chunk in group) for f in (min, max))
        for window in self._windows:
            first, mask = 0 if window is None else max(0, shortest - window), None
            if shortest != longest:
                last = self._tensor([[chunk.start] for chunk in group])
                mask = additive_mask(last, torch.arange(first, longest + 1, device=self.device), window, self.dtype)
                mask = mask[:, None, None]  # (rows, 1, 1, S)
            segment.masks[window] = (first, longest + 1, mask)
        return segment

    def _prefilling(self, chunk: Chunk, rows: slice, asking: Sequence[int]) -> Segment:
        """Return the segment of a prompt's chunk, or of those of its tokens that are `asking`."""
        start, end = chunk.start, chunk.start + len(chunk.ids)
        count = len(asking)
        segment = Segment(rows, slice(chunk.slot, chunk.slot + 1), is_causal=True)
        for window in self._windows:
            first, mask = 0 if window is None else max(0, start - window), None
            is_square = start == 0 and count == end
            if not is_square or self._groups_of_heads > 1 or (window is not None and window < count):
                queries = self._tensor(asking)[:, None] + start
                mask = additive_mask(queries, torch.arange(first, end, device=self.device), window, self.dtype)
                mask = mask.repeat(self._groups_of_heads, 1)[None, None]  # (1, 1, G·T, S)
            segment.masks[window] = (first, end, mask)
        return segment


def may_join(chunk: Chunk, following: Chunk) -> bool:
    """Tell whether both rows decode and lie next to each other, so that they can attend in one call."""
    return len(chunk.ids) == len(following.ids) == 1 and following.slot == chunk.slot + 1


def additive_mask(queries: Tensor, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return 0 where the query at a position (n, 1) sees the key at a position (S,), and −inf elsewhere: (n, S)."""
    visible = keys <= queries
    if window is not None:
        visible &= keys >= queries - window
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
