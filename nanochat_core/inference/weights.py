"""A model's weights as decoding wants them: converted once, fused, and in the dtype that is computed in.

- the embedding is normalised already: rms_norm(E[id]) is a property of the id;
- q, k and v are one product, and the two halves of each head's q and k are interleaved, so that the rotation is one
  complex product: q·k does not care in which order its terms are added;
- matrices lie as (in, out), which few rows at a time multiply fastest on a CPU; the padding of the vocabulary is gone;
- residual scalars are plain numbers.

C width, H query heads, K key/value heads, D head size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.inference.quantise import quantise_int4, quantise_int8, quantise_table
from nanochat_core.model.gpt import GPT, Attention, rms_norm

Matrix = Callable[[Tensor], Tensor]  # (rows, in) -> (rows, out)
Table = Callable[[Tensor], Tensor]  # ids (N,) -> their rows (N, …)
FewBits = Literal["int8", "int4"]
QUANTISERS: dict[FewBits, Callable[[Tensor], Matrix]] = {"int8": quantise_int8, "int4": quantise_int4}


@dataclass
class LayerWeights:
    """One block. `window`: how many keys before its own a position sees, None for all."""

    qkv: Matrix
    out: Matrix
    up: Matrix
    down: Matrix
    window: int | None
    scale: float = 1.0  # of the stream that comes in
    input_scale: float = 0.0  # of the first stream, added to it
    value_table: Table | None = None  # (V, K·D)
    value_gate: Tensor | None = None  # (channels, K)


@dataclass
class InferenceWeights:
    """All that a forward pass needs. `version` tells one state of the model's weights from another."""

    device: torch.device
    dtype: torch.dtype
    table: Table  # (V, C), normalised
    layers: list[LayerWeights]
    head: Matrix
    softmax_scale: float
    smear_gate: Tensor | None = None  # (channels, 1)
    smear_scale: float = 0.0
    backout_scale: float = 0.0
    version: int = 0


def dense(weight: Tensor, dtype: torch.dtype) -> Matrix:
    """Return the product with a weight (out, in): on a CPU by a copy of it that lies as (in, out)."""
    matrix = weight.detach().to(dtype).t()
    if weight.device.type == "cpu":
        matrix = matrix.contiguous()
    return lambda x: torch.mm(x, matrix)


def convert(model: GPT, dtype: torch.dtype, few_bits: FewBits | None = None) -> InferenceWeights:
    """Return the weights of `model`, which may be thrown away afterwards; in few bits all matrices and tables are.

    With int4, tables and the head are int8: four fifths of what int4 costs in bits per byte would be the head's.
    """

    def matrix(weight: Tensor, bits: FewBits | None = few_bits) -> Matrix:
        return dense(weight, dtype) if bits is None else QUANTISERS[bits](weight.detach().float().contiguous())

    def table(rows: Tensor) -> Table:
        if few_bits is not None:
            return quantise_table(rows, dtype)
        return lambda ids: F.embedding(ids, rows)

    with torch.no_grad():
        weights = InferenceWeights(
            device=model.device,
            dtype=dtype,
            table=table(rms_norm(model.wte.weight[: model.vocab_size].to(dtype))),
            layers=[_layer(model, layer, dtype, matrix, table) for layer in range(len(model.blocks))],
            head=matrix(model.lm_head.weight[: model.vocab_size], few_bits and "int8"),
            softmax_scale=softmax_scale(model),
            version=weights_version(model),
        )
        if model.blocks_set.smear:
            weights.smear_gate = model.smear_gate.weight.detach().to(dtype).t().clone()
            weights.smear_scale = float(model.smear_scale)
        if model.blocks_set.backout:
            weights.backout_scale = float(model.backout_scale)
    return weights


def _layer(
    model: GPT,
    layer: int,
    dtype: torch.dtype,
    matrix: Callable[[Tensor], Matrix],
    table: Callable[[Tensor], Table],
) -> LayerWeights:
    block = model.blocks[layer]
    attention = block.attn
    weights = LayerWeights(
        qkv=matrix(fused_qkv(attention)),
        out=matrix(attention.c_proj.weight),
        up=matrix(block.mlp.c_fc.weight),
        down=matrix(block.mlp.c_proj.weight),
        window=attention.window,
    )
    if model.blocks_set.residual_scalars:
        weights.scale, weights.input_scale = float(model.residual_scale[layer]), float(model.input_scale[layer])
    if model.blocks_set.value_embeddings and str(layer) in model.value_embeds:
        weights.value_table = table(model.value_embeds[str(layer)].weight[: model.vocab_size].detach().to(dtype))
        weights.value_gate = attention.value_gate.weight.detach().to(dtype).t().clone()
    return weights


def softmax_scale(model: GPT) -> float:
    """Return what the products of queries and keys are multiplied by."""
    attention = model.blocks[0].attn
    return attention.qk_gain**2 / attention.head_size**0.5


def fused_qkv(attention: Attention) -> Tensor:
    """Return the weights of q, k and v as one, ((H + 2K)·D, C), with the halves of q and k interleaved."""

    def interleaved(weight: Tensor) -> Tensor:
        halves = weight.view(-1, 2, attention.head_size // 2, weight.size(1))
        return halves.transpose(1, 2).reshape(weight.shape)

    q, k, v = (linear.weight for linear in (attention.c_q, attention.c_k, attention.c_v))
    return torch.cat([interleaved(q), interleaved(k), v])


def weights_version(model: GPT) -> int:
    """Return a number that another value of any parameter changes: torch counts the writes into each."""

    def writes(parameter: Tensor) -> int:
        return 0 if parameter.is_inference() else parameter._version  # an inference tensor is not counted, nor trained

    return hash(tuple((parameter.data_ptr(), writes(parameter)) for parameter in model.parameters()))
