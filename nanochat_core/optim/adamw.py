"""AdamW (Loshchilov and Hutter 2019) for tables and scalars, through torch's fused kernel.

p ← p·(1 − η·wd);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  p ← p − (η/(1−β₁ᵗ))·m / (√(v/(1−β₂ᵗ)) + ε)
"""

import torch
from torch import Tensor

from nanochat_core.optim.recipe import EPS, AdamWGroup


@torch.no_grad()
def adamw_step(
    weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, *, step: int, lr: float, group: AdamWGroup
) -> None:
    """Update `weight` and the moments `m`, `v` (same shape and dtype) in place; `step` counts from 1."""
    torch._fused_adamw_(
        [weight],
        [gradient],
        [m],
        [v],
        [],
        [torch.full((), float(step), device=weight.device)],
        lr=lr,
        beta1=group.betas[0],
        beta2=group.betas[1],
        weight_decay=group.weight_decay,
        eps=EPS,
        amsgrad=False,
        maximize=False,
    )
