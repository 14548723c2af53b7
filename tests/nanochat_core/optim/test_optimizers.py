"""Both optimizers against slow or independent versions."""

import pytest
import torch
from torch import Tensor

from nanochat_core.optim import adamw
from nanochat_core.optim.muon import NEWTON_SCHULZ, orthogonalize


def test_adamw_is_torch_s_without_decay() -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 5)
    ours, m, v = start.clone(), torch.zeros(7, 5), torch.zeros(7, 5)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(adamw.BETA1, adamw.BETA2), eps=adamw.EPS, weight_decay=0.0)
    for step in range(1, 6):
        gradient = torch.randn(7, 5)
        adamw.adamw_step(ours, gradient, m, v, step=step, lr=0.01)
        theirs.grad = gradient
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def slow_newton_schulz(matrix: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    x = matrix.double()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
    return x


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_orthogonalized_matrices_are_those_of_the_slow_iteration_with_singular_values_near_one(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, *shape)
    found = orthogonalize(stack, torch.float32)
    for matrix, result in zip(stack, found, strict=True):
        torch.testing.assert_close(result.double(), slow_newton_schulz(matrix), rtol=1e-4, atol=1e-5)
        u, singular, vh = torch.linalg.svd(matrix, full_matrices=False)
        if singular.min() / singular.norm() > 0.05:
            values = torch.linalg.svdvals(result)
            assert values.min() > 0.5 and values.max() < 1.3
        assert (u @ vh * result).sum() > 0
