"""Scaled dot-product attention: softmax(qkᵀ/√D)v, through torch's fused kernels.

B rows, H query heads, K key/value heads, T queries, S keys, D head size.
"""

from torch import Tensor
from torch.nn import functional as F


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return (B, H, T, D) for q (B, H, T, D), k and v (B, K, T, D); query i sees the keys up to i."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Return (B, H, T, D); `visible` (B, 1, T, S), bool, says which keys each query sees (at least one)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=q.size(1) != k.size(1))
