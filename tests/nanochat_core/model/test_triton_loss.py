"""The kernel against torch's own cross-entropy: on a GPU, or through triton's interpreter (TRITON_INTERPRET=1).

TRITON_INTERPRET=1 python -m pytest tests/nanochat_core/model/test_triton_loss.py
"""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -1
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LARGE = 10_000  # more columns than the kernel takes at a time
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not IS_INTERPRETED, reason="TRITON_INTERPRET=1 is not set")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def kernel(device: str) -> Callable[..., Tensor]:
    pytest.importorskip("triton", reason="the package triton is not installed")
    from nanochat_core.model import triton_loss

    return triton_loss.softcap_cross_entropy_


def random_logits(rows: int, columns: int, device: str, spread: float = 10.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(columns)
    logits = spread * torch.randn(rows, columns, generator=generator)
    targets = torch.randint(columns, (rows,), generator=generator)
    targets[1::3] = IGNORED
    return logits.to(device), targets.to(device)


def exact(logits: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Return the losses and the gradients in float64."""
    z = logits.double().requires_grad_()
    losses = cross_entropy(cap * torch.tanh(z / cap), targets, ignore_index=IGNORED, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), z)[0]


@pytest.mark.parametrize("columns", [1, 100, 4096, LARGE])
@pytest.mark.parametrize("cap", [15.0, 30.0])
def test_losses_and_gradients_are_those_of_the_formula(
    kernel: Callable[..., Tensor], device: str, columns: int, cap: float
) -> None:
    logits, targets = random_logits(5, columns, device)
    losses, d_logits = exact(logits, targets, cap)
    found = kernel(logits, targets, cap, ignored=IGNORED, scale=0.25)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.double(), d_logits / 4, atol=1e-7, rtol=1e-4)


def test_logits_in_bfloat16_are_read_exactly_and_their_gradient_rounded_once(
    kernel: Callable[..., Tensor], device: str
) -> None:
    logits, targets = random_logits(4, LARGE, device)
    logits = logits.bfloat16()
    losses, d_logits = exact(logits, targets, 15.0)
    torch.testing.assert_close(kernel(logits, targets, 15.0).double(), losses, atol=1e-5, rtol=1e-5)
    rounding = 2**-7 if IS_INTERPRETED else 2**-8  # the interpreter cuts off
    torch.testing.assert_close(logits.double(), d_logits, atol=1e-7, rtol=rounding)


def test_only_the_logits_of_the_vocabulary_are_touched(kernel: Callable[..., Tensor], device: str) -> None:
    logits, targets = random_logits(3, 128, device)
    before, part = logits.clone(), logits[:, :100]
    targets %= 100
    losses, d_logits = exact(part, targets, 15.0)
    torch.testing.assert_close(kernel(part, targets, 15.0).double(), losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.double(), d_logits, atol=1e-7, rtol=1e-4)
    assert logits[:, 100:].equal(before[:, 100:])


def test_an_ignored_row_costs_nothing_even_where_its_logits_are_not_finite(
    kernel: Callable[..., Tensor], device: str
) -> None:
    logits = torch.full((2, 50), torch.nan, device=device)
    losses = kernel(logits, torch.tensor([IGNORED, 3], device=device), 15.0)
    assert losses[0] == 0
    assert logits[0].eq(0).all()
    assert losses[1].isnan()


def test_logits_far_above_the_cap_give_finite_losses_and_no_gradient(
    kernel: Callable[..., Tensor], device: str
) -> None:
    logits = torch.tensor([[1e6, -1e6, 0.0]], device=device)
    losses = kernel(logits, torch.tensor([1], device=device), 15.0)
    assert losses.item() == pytest.approx(30.0, abs=1e-4)
    assert logits[0, :2].tolist() == [0.0, 0.0]


def test_no_rows_have_no_losses(kernel: Callable[..., Tensor], device: str) -> None:
    assert kernel(torch.empty(0, 8, device=device), torch.empty(0, dtype=torch.long, device=device), 15.0).shape == (0,)
