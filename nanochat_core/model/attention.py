"""Scaled dot-product attention: softmax(qkᵀ/√D)v, through torch's fused kernels.

B rows, H query heads, K key/value heads, T queries, S keys, D head size, w window.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Return (B, H, T, D) for q (B, H, T, D), k and v (B, K, T, D).

    Query i sees the keys j with i − window ≤ j ≤ i; all up to i where `window` is None.
    """
    if window is None or window >= q.size(2) - 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))
    outputs = []
    for start in range(0, q.size(2), max(window // 2, 64)):
        stop, first = min(start + max(window // 2, 64), q.size(2)), max(start - window, 0)
        queries = torch.arange(start, stop, device=q.device)[:, None]
        keys = torch.arange(first, stop, device=q.device)
        visible = (keys <= queries) & (keys >= queries - window)
        outputs.append(masked_attention(q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], visible))
    return torch.cat(outputs, dim=2)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Return (B, H, T, D); `visible` (B, 1, T, S), bool, says which keys each query sees (at least one)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=q.size(1) != k.size(1))
