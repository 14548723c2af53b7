"""Muon (Jordan et al. 2024): momentum, orthogonalised by Newton-Schulz steps, for the matrices inside the blocks."""

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the nearest semi-orthogonal matrices, roughly (singular values in about .7 to 1.2), of a stack (…, m, n).

    Computed in `dtype` (bfloat16 is enough on a GPU). X = M / ‖M‖, then five times X ← aX + (bA + cA²)X with A = XXᵀ.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    is_tall = x.size(-2) > x.size(-1)
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


@torch.no_grad()
def muon_step(
    weights: list[Tensor], gradients: list[Tensor], momentum: Tensor, *, lr: float, mu: float, dtype: torch.dtype
) -> None:
    """Update matrices of one shape in place. `momentum` (K, m, n), float32, is their stacked state, updated too.

    M ← μM + (1−μ)G;  X ← orthogonalize((1−μ)G + μM);  W ← W − η·√max(1, m/n)·X.
    """
    gradient = torch.stack(gradients)
    momentum.lerp_(gradient, 1 - mu)
    update = orthogonalize(gradient.lerp_(momentum, mu), dtype)
    rate = lr * max(1.0, weights[0].size(0) / weights[0].size(1)) ** 0.5
    torch._foreach_add_(weights, list(update.to(weights[0].dtype).unbind()), alpha=-rate)
