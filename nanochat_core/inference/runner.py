"""The forward pass of decoding: the new tokens of many rows side by side, each row at its own position.

All products run over the tokens of all rows at once; only attention looks at rows. Rows that decode (one new token) and
lie in neighbouring slots attend in one call, as long as what is read in vain costs less than another call.

N new tokens, C width, H query heads, K key/value heads, G = H/K, D head size, S keys, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.inference.kv_memory import KVMemory, KVShape
from nanochat_core.inference.weights import FewBits, LayerWeights, convert, weights_version
from nanochat_core.model.accounting import kv_width
from nanochat_core.model.blocks import rope_base
from nanochat_core.model.gpt import GPT, LOGIT_CAP, VALUE_GATE_GAIN, rms_norm, rotary_tables

WASTED_BYTES = 400_000  # reading so many takes as long as one more call of the attention


@dataclass(frozen=True)
class Chunk:
    """New tokens of one row. before: the id in front of them, −1 for none. wanted: whose states are asked for."""

    slot: int
    start: int
    ids: Sequence[int]
    before: int
    wanted: Sequence[int] = ()


@dataclass
class Segment:
    """Rows that attend in one call: `rows` of the new tokens, to the keys of `slots` from `first` to `end`.

    `masks`: for each window the first key read, and what is added to the scores (rows, 1, queries, S) or None.
    """

    rows: slice
    slots: slice
    is_causal: bool = False
    masks: dict[int | None, tuple[int, int, Tensor | None]] = field(default_factory=dict)


class Runner:
    """A model's weights and the memory of its rows on one device."""

    def __init__(self, model: GPT, *, slots: int, capacity: int, few_bits: FewBits | None = None) -> None:
        spec, self._few_bits = model.spec, few_bits
        self.weights = weights = convert(model, model.compute_dtype, few_bits)
        self.device, self.dtype = weights.device, weights.dtype
        self.heads, self.kv_heads = spec.n_head, spec.n_kv_head
        self.head_size = kv_width(spec) // spec.n_kv_head
        windows = tuple(layer.window for layer in weights.layers)
        shape = KVShape(windows, self.kv_heads, self.head_size, capacity, self.dtype)
        self.memory = KVMemory(shape, slots, self.device)
        base = rope_base(spec, model.blocks_set)
        cos, sin = rotary_tables(capacity, self.head_size, base, self.device)
        self._turns = torch.complex(cos, -sin)  # (S, D/2)
        self._windows = set(windows)

    def follow(self, model: GPT) -> bool:
        """Take the model's present weights; tell whether they have changed, and old keys are worth nothing."""
        if self.weights.version == weights_version(model):
            return False
        self.weights = convert(model, self.dtype, self._few_bits)
        return True

    def hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run the new tokens of all rows into the memory; return the normalised last states (wanted, C)."""
        weights, memory = self.weights, self.memory
        ids = torch.tensor([token for chunk in chunks for token in chunk.ids], device=self.device)
        positions = self._positions(chunks)
        places = memory.places(self._slots(chunks), positions)
        segments = list(self._segments(chunks))
        turns = self._turns[positions][:, None]  # (N, 1, D/2)
        x = weights.table(ids)
        if weights.smear_gate is not None:
            x = self._smeared(x, chunks, weights.smear_gate)
        first, middle = x, None
        for number, layer in enumerate(weights.layers):
            if layer.scale != 1.0 or layer.input_scale != 0.0:
                x = torch.add(layer.scale * x, first, alpha=layer.input_scale)
            x = x + self._attention(number, layer, rms_norm(x), ids, places, turns, segments)
            hidden = layer.up(rms_norm(x))
            x = x + layer.down(hidden.relu_().square_())
            if number == len(weights.layers) // 2:
                middle = x
        wanted = self._wanted(chunks)
        if weights.backout_scale != 0.0 and middle is not None:
            x = torch.sub(x[wanted], middle[wanted], alpha=weights.backout_scale)
        else:
            x = x[wanted]
        return rms_norm(x)

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (…, V) before the soft cap, which changes no order, in float32."""
        return self.weights.head(hidden).float()

    def _positions(self, chunks: Sequence[Chunk]) -> Tensor:
        flat = [position for chunk in chunks for position in range(chunk.start, chunk.start + len(chunk.ids))]
        return torch.tensor(flat, device=self.device)

    def _slots(self, chunks: Sequence[Chunk]) -> Tensor:
        return torch.tensor([chunk.slot for chunk in chunks for _ in chunk.ids], device=self.device)

    def _wanted(self, chunks: Sequence[Chunk]) -> Tensor:
        wanted, offset = [], 0
        for chunk in chunks:
            wanted += [offset + place for place in chunk.wanted]
            offset += len(chunk.ids)
        return torch.tensor(wanted, device=self.device, dtype=torch.int64)

    def _smeared(self, x: Tensor, chunks: Sequence[Chunk], smear_gate: Tensor) -> Tensor:
        """Return each embedding with a gated share of the one before it in its row."""
        earlier = torch.roll(x, 1, 0) if len(x) > len(chunks) else torch.empty_like(x)
        heads, offset = [], 0
        for chunk in chunks:
            heads.append(offset)
            offset += len(chunk.ids)
        before = torch.tensor([max(0, chunk.before) for chunk in chunks], device=self.device)
        known = torch.tensor([chunk.before >= 0 for chunk in chunks], device=self.device, dtype=x.dtype)
        earlier[torch.tensor(heads, device=self.device)] = self.weights.table(before) * known[:, None]
        gate = torch.sigmoid(x[:, : smear_gate.size(0)] @ smear_gate) * self.weights.smear_scale  # (N, 1)
        return torch.addcmul(x, gate, earlier)

    def _attention(
        self,
        number: int,
        layer: LayerWeights,
        x: Tensor,
        ids: Tensor,
        places: Tensor,
        turns: Tensor,
        segments: Sequence[Segment],
    ) -> Tensor:
        """Return what attention adds to the stream (N, C) for the normalised stream x (N, C)."""
        count, rotated = x.size(0), self.heads + self.kv_heads
        qkv = layer.qkv(x).view(count, -1, self.head_size)  # (N, H + 2K, D)
        pairs = torch.view_as_complex(qkv[:, :rotated].float().reshape(count, rotated, -1, 2)) * turns
        qk = rms_norm(torch.view_as_real(pairs).view(count, rotated, self.head_size).to(self.dtype))
        q, k, v = qk[:, : self.heads], qk[:, self.heads :], qkv[:, rotated:]
        if layer.value_table is not None and layer.value_gate is not None:
            gate = torch.sigmoid(x[:, : layer.value_gate.size(0)] @ layer.value_gate) * VALUE_GATE_GAIN  # (N, K)
            v = torch.addcmul(v, gate[..., None], layer.value_table(ids).view_as(v))
        self.memory.write(number, places, k, v)
        outputs = [self._attend(number, layer.window, q[segment.rows], segment) for segment in segments]
        return layer.out((outputs[0] if len(outputs) == 1 else torch.cat(outputs)).view(count, -1))

    def _attend(self, number: int, window: int | None, q: Tensor, segment: Segment) -> Tensor:
        """Return the attention (n, H·D) of the queries (n, H, D) of a segment."""
        first, end, mask = segment.masks[window]
        keys = self.memory.keys[number][segment.slots, :, first:end]  # (rows, K, S, D)
        values = self.memory.values[number][segment.slots, :, first:end]
        rows, groups = keys.size(0), self.heads // self.kv_heads
        queries = q.view(rows, -1, self.kv_heads, groups, self.head_size).permute(0, 2, 3, 1, 4)  # (rows, K, G, T, D)
        queries = queries.reshape(rows, self.kv_heads, -1, self.head_size)  # the G heads of a key head as more queries
        y = F.scaled_dot_product_attention(
            queries, keys, values, mask, is_causal=segment.is_causal and mask is None, scale=self.weights.softmax_scale
        )
        y = y.view(rows, self.kv_heads, groups, -1, self.head_size).permute(0, 3, 1, 2, 4)
        return y.reshape(-1, self.heads * self.head_size)

    def _segments(self, chunks: Sequence[Chunk]) -> Iterator[Segment]:
        """Yield what attends in one call each, in the order of the new tokens."""
        offset, group = 0, []
        for chunk, following in pairwise([*chunks, None]):
            group.append(chunk)
            if len(chunk.ids) == 1 and following is not None and self._may_join(group, following):
                continue
            count = sum(len(member.ids) for member in group)
            rows = slice(offset, offset + count)
            yield self._decoding(group, rows) if len(chunk.ids) == 1 else self._prefilling(chunk, rows)
            offset, group = offset + count, []

    def _may_join(self, group: list[Chunk], following: Chunk) -> bool:
        """Tell whether the next row attends in the same call as the group: cheap enough, and in the next slot."""
        if len(following.ids) != 1 or following.slot != group[-1].slot + 1:
            return False
        lengths = [member.start for member in [*group, following]]
        wasted = max(lengths) * len(lengths) - sum(lengths)
        return wasted * self.memory.shape.token_bytes <= WASTED_BYTES * len(group)

    def _decoding(self, group: list[Chunk], rows: slice) -> Segment:
        segment = Segment(rows, slice(group[0].slot, group[-1].slot + 1))
        shortest, longest = (f(chunk.start for chunk in group) for f in (min, max))
        for window in self._windows:
            first = 0 if window is None else max(0, shortest - window)
            mask = None
            if shortest != longest:
                last = torch.tensor([chunk.start for chunk in group], device=self.device)[:, None]
                keys = torch.arange(first, longest + 1, device=self.device)
                visible = keys <= last
                if window is not None:
                    visible &= keys >= last - window
                mask = _additive(visible, self.dtype)[:, None, None]  # (rows, 1, 1, S)
            segment.masks[window] = (first, longest + 1, mask)
        return segment

    def _prefilling(self, chunk: Chunk, rows: slice) -> Segment:
        count, start, groups = len(chunk.ids), chunk.start, self.heads // self.kv_heads
        segment = Segment(rows, slice(chunk.slot, chunk.slot + 1), is_causal=True)
        for window in self._windows:
            first = 0 if window is None else max(0, start - window)
            end, mask = start + count, None
            if start > 0 or groups > 1 or (window is not None and window < count):
                queries = torch.arange(start, end, device=self.device)[:, None]
                keys = torch.arange(first, end, device=self.device)
                visible = keys <= queries
                if window is not None:
                    visible &= keys >= queries - window
                mask = _additive(visible, self.dtype).repeat(groups, 1)[None, None]
            segment.masks[window] = (first, end, mask)
        return segment


def capped(raw: Tensor) -> Tensor:
    """Return the soft-capped logits: 15·tanh(raw / 15)."""
    return LOGIT_CAP * torch.tanh(raw / LOGIT_CAP)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a key is visible and −inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
