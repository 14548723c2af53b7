"""AdamW against torch's, Muon against slow versions in float64 and against the SVD."""

import math

import pytest
import torch
from torch import Tensor

from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.muon import (
    NEWTON_SCHULZ,
    POLAR_EXPRESS,
    apply_update,
    muon_update,
    newton_schulz,
    polar_express,
    reduce_variance,
    variance_shape,
)
from nanochat_core.optim.recipe import CLASSIC, EPS, FULL, AdamWGroup

SHAPES = [(8, 8), (4, 12), (12, 4)]


@pytest.mark.parametrize("group", [AdamWGroup(), AdamWGroup((0.9, 0.995), 0.1)])
def test_adamw_is_torch_s(group: AdamWGroup) -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 5)
    ours, m, v = start.clone(), torch.zeros(7, 5), torch.zeros(7, 5)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=group.betas, eps=EPS, weight_decay=group.weight_decay)
    for step in range(1, 6):
        gradient = torch.randn(7, 5)
        adamw_step(ours, gradient, m, v, step=step, lr=0.01, group=group)
        theirs.grad = gradient
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)


def slow_iteration(x: Tensor, coefficients: tuple[tuple[float, float, float], ...]) -> Tensor:
    for a, b, c in coefficients:
        x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
    return x


def slow_newton_schulz(matrix: Tensor) -> Tensor:
    x = matrix.double()
    return slow_iteration(x / (x.norm() + 1e-7), NEWTON_SCHULZ)


def slow_polar_express(matrix: Tensor) -> Tensor:
    x = matrix.double()
    target = x.norm() / math.sqrt(x.size(0))
    x = torch.stack([row * (target / max(row.norm(), 1e-6)) for row in x])
    x = slow_iteration(x / (1.01 * x.norm() + 1e-6), POLAR_EXPRESS)
    return x * (math.sqrt(min(x.shape)) / x.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalised_matrices_are_those_of_the_slow_iterations(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, *shape)
    for fast, slow in ((newton_schulz, slow_newton_schulz), (polar_express, slow_polar_express)):
        for matrix, result in zip(stack, fast(stack), strict=True):
            torch.testing.assert_close(result.double(), slow(matrix), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_the_polar_factor_is_that_of_the_svd(shape: tuple[int, int]) -> None:
    """Up to a factor: the singular values of both iterations end near one another, not all at one."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape).double(), full_matrices=False)
    polar = u @ vh
    matrix = (u * torch.linspace(0.1, 1, min(shape)).double()) @ vh
    express = slow_iteration(matrix / (1.01 * matrix.norm()), POLAR_EXPRESS)
    cosines = [
        float((found * polar).sum() / (found.norm() * polar.norm()))
        for found in (matrix, newton_schulz(matrix.float()[None])[0].double(), express)
    ]
    assert cosines[0] < 0.92
    assert cosines[1] > 0.98
    assert cosines[2] > 0.995


@pytest.mark.parametrize("shape", SHAPES)
def test_normuon_evens_out_rows_or_columns_and_keeps_the_norm(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, *shape) * torch.logspace(-1, 1, shape[0])[:, None]
    state = torch.zeros(2, *variance_shape(*shape))
    found = reduce_variance(x, state, 0.9)
    across = -1 if shape[0] >= shape[1] else -2
    expected_state = 0.1 * x.double().square().mean(dim=across, keepdim=True)
    torch.testing.assert_close(state.double(), expected_state, rtol=1e-5, atol=1e-8)
    slow = x.double() / expected_state.sqrt()
    slow = slow * (x.double().flatten(1).norm(dim=1) / slow.flatten(1).norm(dim=1))[:, None, None]
    torch.testing.assert_close(found.double(), slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", [CLASSIC, FULL])
def test_muon_s_momentum_is_nesterov_s_in_the_form_of_a_running_mean(recipe: type[CLASSIC]) -> None:
    torch.manual_seed(0)
    momentum, slow = torch.zeros(1, 6, 8), torch.zeros(6, 8).double()
    for mu in (0.85, 0.9):
        gradient = torch.randn(1, 6, 8)
        update = muon_update(gradient, momentum, None, recipe, mu=mu, dtype=torch.float32)
        slow = mu * slow + (1 - mu) * gradient[0].double()
        nesterov = (1 - mu) * gradient[0].double() + mu * slow
        expected = (slow_polar_express if recipe.polar_express else slow_newton_schulz)(nesterov)
        torch.testing.assert_close(update[0].double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(momentum[0].double(), slow, rtol=1e-5, atol=1e-6)


def test_muon_is_blind_to_the_scale_of_the_gradient() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(1, 6, 8)
    updates = [
        muon_update(scale * gradient, torch.zeros(1, 6, 8), None, CLASSIC, mu=0.9, dtype=torch.float32)
        for scale in (1.0, 1000.0)
    ]
    torch.testing.assert_close(*updates, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_without_a_gradient_stays_where_it_is(shape: tuple[int, int]) -> None:
    zeros, variance = torch.zeros(1, *shape), torch.zeros(1, *variance_shape(*shape))
    for recipe in (CLASSIC, FULL):
        update = muon_update(
            zeros, zeros.clone(), variance if recipe is FULL else None, recipe, mu=0.9, dtype=zeros.dtype
        )
        assert torch.equal(update, zeros)


def test_tall_matrices_move_further_and_a_cautious_decay_goes_only_with_the_update() -> None:
    update = torch.tensor([[1.0], [-1.0], [1.0], [0.0]])
    start = torch.tensor([[2.0], [2.0], [-2.0], [2.0]])
    cautious, plain = start.clone(), start.clone()
    apply_update(cautious, update, lr=0.1, decay=0.5, cautious=True)
    apply_update(plain, update, lr=0.1, decay=0.5, cautious=False)
    rate = 0.1 * math.sqrt(4 / 1)
    torch.testing.assert_close(plain, start * (1 - 0.5 * rate) - rate * update)
    shrunk = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    torch.testing.assert_close(cautious, start - start * shrunk * (0.5 * rate) - rate * update)
