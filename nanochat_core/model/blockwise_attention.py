"""Causal attention on a CPU in float32, by blocks of queries: each is multiplied with no keys but those it may see.

torch's own CPU kernel works through masked keys too, so that a window gains nothing there. Here a block of b queries
costs b·(w + b) scores, forward and backward are matrix products of MKL, and the probabilities are kept for the backward
pass instead of computed again. Measured on 2 cores with AVX-512 (B=4, H=2, D=128, T=512, forward and backward): torch
14.8 ms with a window or without, here 9.7 ms without and 7.2 ms with a window of 128.

Registered as operators of torch, so that torch.compile takes each as one call and does not unroll the blocks.

N = rows × heads, T tokens, D head size, b queries in a block, w window, S keys that a block sees (≤ w + b).
"""

import math
from typing import Any

import torch
from torch import Tensor

from nanochat_core.model.query_blocks import MOST_KEYS, MOST_QUERIES, blocks_of, scores_of

LIBRARY = torch.library.Library("nanochat", "FRAGMENT")
LIBRARY.define("blockwise_attention(Tensor q, Tensor k, Tensor v, int window) -> (Tensor, Tensor)")
LIBRARY.define(
    "blockwise_attention_backward(Tensor d_y, Tensor q, Tensor k, Tensor v, Tensor p, int window) "
    "-> (Tensor, Tensor, Tensor)"
)


def is_worthwhile(q: Tensor, window: int) -> bool:
    """Whether q (B, H, T, D) is better attended to here than by torch's kernel."""
    return q.device.type == "cpu" and q.dtype == torch.float32 and min(window + 1, q.size(2)) <= MOST_KEYS


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Return softmax(qkᵀ/√D)v, (B, H, T, D), of q, k, v (B, H, T, D); query i sees the keys i − window … i."""
    return _Attention.apply(q, k, v, window)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        flat = [x.flatten(0, 1).contiguous() for x in (q, k, v)]  # (N, T, D)
        y, p = torch.ops.nanochat.blockwise_attention(*flat, window)
        ctx.save_for_backward(*flat, p)
        ctx.window, ctx.shape = window, q.shape
        return y.view(q.shape)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        d_y = d_y.flatten(0, 1).contiguous()
        d_q, d_k, d_v = torch.ops.nanochat.blockwise_attention_backward(d_y, *ctx.saved_tensors, ctx.window)
        return d_q.view(ctx.shape), d_k.view(ctx.shape), d_v.view(ctx.shape), None


def _forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the output (N, T, D) and the probabilities of all blocks, one behind the other."""
    y, p = _results(q, k, v, window)
    later = torch.full((MOST_QUERIES, MOST_QUERIES), -torch.inf).triu(1)
    earlier = later.T
    for (first, start, stop), scores in zip(blocks_of(q.size(1), window), _pieces(p, q, window), strict=True):
        torch.baddbmm(
            scores, q[:, start:stop], k[:, first:stop].mT, beta=0, alpha=q.size(-1) ** -0.5, out=scores
        )  # (N, b, S)
        size, spare = stop - start, window - (start - first)  # the block's query i sees no key before its (i − spare)th
        scores[:, :, start - first :] += later[:size, :size]
        if spare < size:
            scores[:, spare:, : size - spare] += earlier[: size - spare, : size - spare]
        torch.softmax(scores, dim=-1, out=scores)
        torch.bmm(scores, v[:, first:stop], out=y[:, start:stop])
    return y, p


def _backward(d_y: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients (N, T, D) of q, k and v: with d = p ⊙ (d_y·vᵀ − rowsum), d_q = d·k/√D, d_k = dᵀq/√D."""
    scale = q.size(-1) ** -0.5
    d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for (first, start, stop), weights in zip(blocks_of(q.size(1), window), _pieces(p, q, window), strict=True):
        d_v[:, first:stop].baddbmm_(weights.mT, d_y[:, start:stop])
        d = torch.bmm(d_y[:, start:stop], v[:, first:stop].mT)  # (N, b, S)
        d = torch.ops.aten._softmax_backward_data(d, weights, -1, d.dtype)
        torch.baddbmm(d_q[:, start:stop], d, k[:, first:stop], beta=0, alpha=scale, out=d_q[:, start:stop])
        d_k[:, first:stop].baddbmm_(d.mT, q[:, start:stop], alpha=scale)
    return d_q, d_k, d_v


def _pieces(p: Tensor, q: Tensor, window: int) -> list[Tensor]:
    """Return each block's part (N, b, S) of the probabilities."""
    shapes = [(q.size(0), stop - start, stop - first) for first, start, stop in blocks_of(q.size(1), window)]
    return [piece.view(shape) for piece, shape in zip(p.split([math.prod(s) for s in shapes]), shapes, strict=True)]


def _results(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return what `_forward` fills: torch.compile asks for no more than the shapes."""
    return torch.empty_like(q), q.new_empty(q.size(0) * scores_of(q.size(1), window))


def _gradients(d_y: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


LIBRARY.impl("blockwise_attention", _forward, "CPU")
LIBRARY.impl("blockwise_attention_backward", _backward, "CPU")
LIBRARY._register_fake("blockwise_attention", _results)
LIBRARY._register_fake("blockwise_attention_backward", _gradients)
