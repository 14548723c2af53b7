"""The weights of a model that is being trained, for an engine that answers between its steps: read where they are.

Matrices and tables in the dtype that is computed in are never copied: an update in place is there at the next token.
Those of another dtype (float32 matrices of a model that computes in bfloat16) are cast once for each update, always
into the same memory, so that recorded CUDA graphs stay good.

C width, D head size, N tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat_core.inference.weights import (
    InferenceWeights,
    LayerWeights,
    Matrix,
    Table,
    fused_qkv,
    softmax_scale,
    weights_version,
)
from nanochat_core.model.gpt import GPT, Attention, rms_norm


class LiveWeights:
    """The weights of `model` as they are at the last `refresh`; what is not cast is newer than that."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._casts: list[tuple[Tensor, Callable[[], Tensor]]] = []
        with torch.no_grad():
            self.weights = InferenceWeights(
                device=model.device,
                dtype=dtype,
                table=self._embedding(model),
                layers=[self._layer(layer) for layer in range(len(model.blocks))],
                head=self._matrix(model.lm_head.weight[: model.vocab_size]),
                softmax_scale=softmax_scale(model),
                smear_gate=self._own(model.smear_gate.weight).t() if model.blocks_set.smear else None,
            )
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> bool:
        """Take the model's present values; tell whether one has changed that a recorded graph holds as a number."""
        for memory, made in self._casts:
            memory.copy_(made())
        before, after = self.numbers(), self._present_numbers()
        self.weights.smear_scale, self.weights.backout_scale = after[:2]
        for layer, scale, input_scale in zip(self.weights.layers, after[2::2], after[3::2], strict=True):
            layer.scale, layer.input_scale = scale, input_scale
        self.weights.version = weights_version(self._model)
        return before != after

    def numbers(self) -> list[float]:
        """Return the scalars of the last refresh: smear, backout, and two of each layer."""
        layers = [number for layer in self.weights.layers for number in (layer.scale, layer.input_scale)]
        return [self.weights.smear_scale, self.weights.backout_scale, *layers]

    def _present_numbers(self) -> list[float]:
        model, blocks = self._model, self._model.blocks_set
        scales, input_scales = [1.0] * len(model.blocks), [0.0] * len(model.blocks)
        if blocks.residual_scalars:
            scales, input_scales = model.residual_scale.tolist(), model.input_scale.tolist()
        return [
            float(model.smear_scale) if blocks.smear else 0.0,
            float(model.backout_scale) if blocks.backout else 0.0,
            *(number for pair in zip(scales, input_scales, strict=True) for number in pair),
        ]

    def _own(self, weight: Tensor) -> Tensor:
        """Return the weight's memory, or memory of the right dtype that follows it."""
        source = weight.detach()
        return source if source.dtype == self._dtype else self._cast(lambda: source)

    def _cast(self, made: Callable[[], Tensor]) -> Tensor:
        memory = made().to(self._dtype)
        self._casts.append((memory, made))
        return memory

    def _matrix(self, weight: Tensor) -> Matrix:
        own = self._own(weight)
        return lambda x: F.linear(x, own)

    def _embedding(self, model: GPT) -> Table:
        rows, dtype = model.wte.weight.detach(), self._dtype
        return lambda ids: rms_norm(F.embedding(ids, rows).to(dtype))

    def _value_table(self, table: nn.Embedding) -> Table:
        rows, dtype = table.weight.detach(), self._dtype
        return lambda ids: F.embedding(ids, rows).to(dtype)

    def _layer(self, layer: int) -> LayerWeights:
        model, block = self._model, self._model.blocks[layer]
        weights = LayerWeights(
            qkv=self._qkv(block.attn),
            out=self._matrix(block.attn.c_proj.weight),
            up=self._matrix(block.mlp.c_fc.weight),
            down=self._matrix(block.mlp.c_proj.weight),
            window=block.attn.window,
        )
        if model.blocks_set.value_embeddings and str(layer) in model.value_embeds:
            weights.value_table = self._value_table(model.value_embeds[str(layer)])
            weights.value_gate = self._own(block.attn.value_gate.weight).t()
        return weights

    def _qkv(self, attention: Attention) -> Matrix:
        """Return the product with q, k and v; where they are read in place, their outputs are interleaved instead."""
        if attention.c_q.weight.dtype != self._dtype:
            fused = self._cast(lambda: fused_qkv(attention).detach())
            return lambda x: F.linear(x, fused)
        q, k, v = (linear.weight.detach() for linear in (attention.c_q, attention.c_k, attention.c_v))
        half = attention.head_size // 2

        def interleaved(y: Tensor) -> Tensor:
            return y.view(len(y), -1, 2, half).transpose(2, 3).reshape(len(y), -1)

        return lambda x: torch.cat((interleaved(F.linear(x, q)), interleaved(F.linear(x, k)), F.linear(x, v)), dim=1)
