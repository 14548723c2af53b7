"""The forward pass of decoding: the new tokens of many rows side by side, each at its own position in its row.

All products run over the tokens of all rows at once; only attention looks at rows, one call for each `Segment`. All of
it is device work on given tensors, so that CUDA can record it.

N new tokens, C width, H query heads, K key/value heads, G = H/K, D head size, S keys, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.inference.kv_memory import KVMemory
from nanochat_core.inference.weights import InferenceWeights, LayerWeights
from nanochat_core.model.gpt import LOGIT_CAP, VALUE_GATE_GAIN, rms_norm


@dataclass
class Segment:
    """Rows that attend in one call: `rows` of the new tokens, to the keys of `slots`.

    `masks`: for each window the first key read, the one after the last, and what is added to the scores
    (rows, 1, queries, S) or None.
    """

    rows: slice
    slots: slice
    is_causal: bool = False
    masks: dict[int | None, tuple[int, int, Tensor | None]] = field(default_factory=dict)


@dataclass
class Ending:
    """What goes through the last layer: of tokens whose states nobody asks for it needs the keys and values only.

    kept: those tokens (M,). segments: who of them attends to what. wanted: the kept ones whose states are asked for,
    None for all.
    """

    kept: Tensor
    segments: Sequence[Segment]
    wanted: Tensor | None = None


@dataclass
class Batch:
    """New tokens.

    ids: (N,). places: where their keys go (N·K,). turns: their rotations (N, 1, D/2). segments: who attends to what.
    first: the place of each row's first new token (R,), None where each token is a row. before: the id in front of that
    token (R,). known: 1 where there is one, else 0 (R, 1). ending: None where all states are asked for.
    """

    ids: Tensor
    places: Tensor
    turns: Tensor
    segments: Sequence[Segment]
    first: Tensor | None
    before: Tensor
    known: Tensor
    ending: Ending | None = None


def forward(weights: InferenceWeights, memory: KVMemory, batch: Batch) -> Tensor:
    """Put the keys and values of the new tokens into the memory; return the normalised last states (wanted, C)."""
    x = weights.table(batch.ids)
    if weights.smear_gate is not None:
        x = _smeared(weights, weights.smear_gate, batch, x)
    start, middle = x, x
    ending, last = batch.ending, len(weights.layers) - 1
    for number, layer in enumerate(weights.layers):
        if layer.scale != 1.0 or layer.input_scale != 0.0:
            x = torch.add(layer.scale * x, start, alpha=layer.input_scale)
        here = ending if number == last else None
        attended = _attention(weights, memory, batch, number, rms_norm(x), here)
        if here is not None:
            if not here.segments:
                return attended  # nobody asks for anything
            x, middle = x[here.kept], middle[here.kept]
        x = x + attended
        x = x + layer.down(layer.up(rms_norm(x)).relu_().square_())
        if number == len(weights.layers) // 2:
            middle = x
    if ending is not None and ending.wanted is not None:
        x, middle = x[ending.wanted], middle[ending.wanted]
    if weights.backout_scale != 0.0:
        x = torch.sub(x, middle, alpha=weights.backout_scale)
    return rms_norm(x)


def capped(raw: Tensor) -> Tensor:
    """Return the soft-capped logits, 15·tanh(raw / 15), in the memory of the raw ones."""
    return raw.div_(LOGIT_CAP).tanh_().mul_(LOGIT_CAP)


def _smeared(weights: InferenceWeights, smear_gate: Tensor, batch: Batch, x: Tensor) -> Tensor:
    """Return each embedding with a gated share of the one before it in its row."""
    before = weights.table(batch.before) * batch.known
    if batch.first is not None:
        before = torch.roll(x, 1, 0).index_copy_(0, batch.first, before)
    gate = torch.sigmoid(x[:, : smear_gate.size(0)] @ smear_gate) * weights.smear_scale  # (N, 1)
    return torch.addcmul(x, gate, before)


def _attention(
    weights: InferenceWeights, memory: KVMemory, batch: Batch, number: int, x: Tensor, ending: Ending | None
) -> Tensor:
    """Return what attention adds to the stream for the normalised stream x (N, C): (N, C), of an ending (M, C)."""
    layer, kv_heads, head_size = weights.layers[number], memory.shape.heads, memory.shape.head_size
    qkv = layer.qkv(x).view(x.size(0), -1, head_size)  # (N, H + 2K, D)
    rotated, heads = qkv.size(1) - kv_heads, qkv.size(1) - 2 * kv_heads
    pairs = torch.view_as_complex(qkv[:, :rotated].float().unflatten(2, (-1, 2))) * batch.turns
    qk = rms_norm(torch.view_as_real(pairs).flatten(2).to(x.dtype))
    q, k, v = qk[:, :heads], qk[:, heads:], _values(layer, batch, x, qkv[:, rotated:])
    memory.write(number, batch.places, k, v)
    segments = batch.segments
    if ending is not None:
        q, segments = q[ending.kept], ending.segments
    outputs = [_attend(weights, memory, number, q[segment.rows], segment) for segment in segments]
    if not outputs:
        return x[:0]
    return layer.out(outputs[0] if len(outputs) == 1 else torch.cat(outputs))


def _values(layer: LayerWeights, batch: Batch, x: Tensor, v: Tensor) -> Tensor:
    """Return v (N, K, D) with a gated share of the tokens' own values, where the layer has a table of them."""
    if layer.value_table is None or layer.value_gate is None:
        return v
    gate = torch.sigmoid(x[:, : layer.value_gate.size(0)] @ layer.value_gate) * VALUE_GATE_GAIN  # (N, K)
    return torch.addcmul(v, gate[..., None], layer.value_table(batch.ids).view_as(v))


def _attend(weights: InferenceWeights, memory: KVMemory, number: int, q: Tensor, segment: Segment) -> Tensor:
    """Return the attention (n, H·D) of the queries (n, H, D) of a segment."""
    start, end, mask = segment.masks[weights.layers[number].window]
    keys = memory.keys[number][segment.slots, :, start:end]  # (rows, K, S, D)
    values = memory.values[number][segment.slots, :, start:end]
    rows, kv_heads, _, head_size = keys.shape
    groups = q.size(1) // kv_heads
    queries = q.reshape(rows, -1, kv_heads, groups, head_size).permute(0, 2, 3, 1, 4)  # (rows, K, G, T, D)
    queries = queries.flatten(2, 3)  # the G heads of a key head are as many more queries
    is_causal = segment.is_causal and mask is None
    y = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=is_causal, scale=weights.softmax_scale)
    y = y.unflatten(2, (groups, -1)).permute(0, 3, 1, 2, 4)  # (rows, T, K, G, D)
    return y.reshape(-1, q.size(1) * head_size)
