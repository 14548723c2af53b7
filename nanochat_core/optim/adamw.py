"""AdamW (Loshchilov and Hutter 2019) for embedding and head, in the form p ← p − (η/(1−β₁ᵗ))·m / (√(v/(1−β₂ᵗ)) + ε)."""

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.8, 0.95, 1e-10


@torch.no_grad()
def adamw_step(weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, *, step: int, lr: float) -> None:
    """Update `weight` and the moments `m`, `v` (same shape) in place; `step` counts from 1. No weight decay."""
    m.lerp_(gradient, 1 - BETA1)
    v.lerp_(gradient.square(), 1 - BETA2)
    denominator = (v / (1 - BETA2**step)).sqrt_().add_(EPS)
    weight.addcdiv_(m.to(weight.dtype), denominator.to(weight.dtype), value=-lr / (1 - BETA1**step))
