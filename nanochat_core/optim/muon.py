"""Muon (Jordan et al. 2024): momentum, orthogonalised, for the matrices inside the blocks.

Stacks of K matrices of one shape (K, m, n) are worked on together. `Recipe` says which variant: plain Newton-Schulz, or
Polar Express (Amsel et al. 2025) on rows of one norm, with NorMuon's variance (Li et al. 2025) and cautious decay.
"""

import torch
from torch import Tensor

from nanochat_core.optim.recipe import Recipe

NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
ROW_EPS, VARIANCE_EPS = 1e-6, 1e-10
TINY = 1e-10  # the norm of a matrix that had no gradient yet, as behind a projection that is still zero


def norm(x: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, (…, 1, 1)."""
    return x.norm(dim=(-2, -1), keepdim=True)


def iterate(x: Tensor, coefficients: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Return X after X ← aX + (bA + cA²)X, A = XXᵀ, for each (a, b, c): its singular values move to about 1."""
    is_tall = x.size(-2) > x.size(-1)
    if is_tall:
        x = x.mT
    stack = x.flatten(0, -3) if x.dim() != 3 else x
    for a, b, c in coefficients:
        gram = torch.bmm(stack, stack.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        stack = torch.baddbmm(stack, polynomial, stack, beta=a)
    x = stack.view(x.shape)
    return x.mT if is_tall else x


def newton_schulz(x: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrices, roughly (singular values of about .7 to 1.2), of a stack."""
    return iterate(x / (norm(x) + 1e-7), NEWTON_SCHULZ)


def polar_express(x: Tensor) -> Tensor:
    """Return the same of matrices whose rows were given one norm first (MuonEq), then ‖X‖² = min(m, n) (Muon+)."""
    rows, columns = x.shape[-2:]
    x = x * (norm(x) / rows**0.5 / x.norm(dim=-1, keepdim=True).clamp(min=ROW_EPS))
    x = iterate(x / (1.01 * norm(x) + 1e-6), POLAR_EXPRESS)
    return x * (min(rows, columns) ** 0.5 / norm(x).clamp(min=TINY))


def reduce_variance(x: Tensor, variance: Tensor, beta: float) -> Tensor:
    """Return X with rows (or columns, where there are more of them) scaled to an even mean square, its norm kept.

    `variance` (K, m, 1) or (K, 1, n), float32, is the running mean square, updated.
    """
    across = -1 if variance.size(-1) == 1 else -2
    variance.lerp_(x.square().mean(dim=across, keepdim=True), 1 - beta)
    scaled = x * variance.clamp(min=VARIANCE_EPS).rsqrt()
    return scaled * (norm(x) / norm(scaled).clamp(min=TINY))


def variance_shape(rows: int, columns: int) -> tuple[int, int]:
    """Return the shape of NorMuon's state: one value a row if m ≥ n, else one a column."""
    return (rows, 1) if rows >= columns else (1, columns)


@torch.no_grad()
def muon_update(
    gradient: Tensor, momentum: Tensor, variance: Tensor | None, recipe: Recipe, *, mu: float, dtype: torch.dtype
) -> Tensor:
    """Return the update X (K, m, n), float32, from the gradient; `momentum` and `variance` are updated.

    M ← μM + (1−μ)G;  X ← orthogonalised (1−μ)G + μM, computed in `dtype` (bfloat16 is enough on a GPU).
    """
    momentum.lerp_(gradient, 1 - mu)
    nesterov = gradient.lerp(momentum, mu).to(dtype)
    update = (polar_express(nesterov) if recipe.polar_express else newton_schulz(nesterov)).float()
    return update if variance is None else reduce_variance(update, variance, recipe.variance_beta or 0.0)


@torch.no_grad()
def apply_update(weight: Tensor, update: Tensor, *, lr: float, decay: float, cautious: bool) -> None:
    """W ← W − η·X − η·λ·W, η = lr·√max(1, m/n); the decay only where X·W ≥ 0 if `cautious`."""
    rate = lr * max(1.0, weight.size(-2) / weight.size(-1)) ** 0.5
    if decay and cautious:
        weight.mul_(1 - rate * decay * (update * weight >= 0))
    elif decay:
        weight.mul_(1 - rate * decay)
    weight.sub_(update, alpha=rate)
