import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanochat_core.model import loss
from nanochat_core.model.loss import IGNORED, head_loss, loss_sum, token_nll
from nanochat_core.model.memory import LOGIT_ROWS_CPU
from tests.nanochat_core.inference.test_engine import random_model

IDX = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
TARGETS = torch.tensor([[2, IGNORED, 4, 9], [IGNORED, IGNORED, IGNORED, 0]])


@torch.no_grad()
def test_each_target_costs_its_negative_log_probability_and_an_ignored_one_nothing() -> None:
    model = random_model()
    found, logprobs = token_nll(model, IDX, TARGETS), F.log_softmax(model(IDX), -1)
    for (row, column), target in zip(
        torch.cartesian_prod(torch.arange(2), torch.arange(4)), TARGETS.flatten(), strict=True
    ):
        expected = 0.0 if target == IGNORED else -logprobs[row, column, target].item()
        assert found[row, column].item() == pytest.approx(expected, rel=1e-5)
    assert loss_sum(model, IDX, TARGETS).item() == pytest.approx(found.sum().item(), rel=1e-5)


def test_rows_with_nothing_to_learn_cost_zero_with_zero_gradients_and_never_nan() -> None:
    model = random_model()
    loss = loss_sum(model, IDX, torch.full_like(TARGETS, IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert not any(parameter.grad.any() for parameter in model.parameters())


def plain_loss(hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """The same with all logits, in the inputs' dtype."""
    logits = 15 * torch.tanh((hidden @ head.T)[..., :vocab_size] / 15)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def head_case(rows: int, vocab_size: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden (1, rows, 24), a head with eight rows to spare, and targets, some of them ignored."""
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(1, rows, 24, generator=generator)
    head = torch.randn(vocab_size + 8, 24, generator=generator) * scale
    targets = torch.randint(0, vocab_size, (1, rows), generator=generator)
    targets[0, ::3] = IGNORED
    return hidden, head, targets


@pytest.mark.parametrize("rows", [1, LOGIT_ROWS_CPU - 1, LOGIT_ROWS_CPU, 2 * LOGIT_ROWS_CPU + 5])
@pytest.mark.parametrize("scale", [0.02, 3.0, 100.0])
def test_the_loss_in_pieces_and_its_gradients_are_those_of_all_logits(rows: int, scale: float) -> None:
    vocab_size = 90
    hidden, head, targets = head_case(rows, vocab_size, scale)
    ours = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    slow = [hidden.double().requires_grad_(), head.double().requires_grad_()]
    found = head_loss(*ours, targets, vocab_size)
    expected = plain_loss(*slow, targets, vocab_size)
    (found / 7).backward()
    (expected / 7).backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    for mine, its in zip(ours, slow, strict=True):
        error = (mine.grad.double() - its.grad).norm() / its.grad.norm().clamp(min=1e-12)
        assert error < 1e-5 or its.grad.norm() < 1e-9  # a saturated cap has next to no gradient
    assert not ours[1].grad[vocab_size:].any()


def test_bf16_hidden_states_give_the_loss_within_their_precision() -> None:
    hidden, head, targets = head_case(200, 90, 0.5)
    ours = [hidden.bfloat16().requires_grad_(), head.clone().requires_grad_()]
    slow = [hidden.bfloat16().double().requires_grad_(), head.bfloat16().double().requires_grad_()]
    found, expected = head_loss(*ours, targets, 90), plain_loss(*slow, targets, 90)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    assert (ours[0].grad.dtype, ours[1].grad.dtype) == (torch.bfloat16, torch.float32)
    for mine, its in zip(ours, slow, strict=True):
        assert (mine.grad.double() - its.grad).norm() / its.grad.norm() < 0.01


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return found


def test_no_tensor_holds_the_logits_of_all_tokens() -> None:
    rows, vocab_size = 8 * LOGIT_ROWS_CPU, 1000
    hidden, head, targets = head_case(rows, vocab_size, 0.5)
    with LargestTensor() as largest:
        head_loss(hidden.requires_grad_(), head.requires_grad_(), targets, vocab_size).backward()
    assert largest.elements == 2 * LOGIT_ROWS_CPU * vocab_size < rows * vocab_size / 2


def test_each_row_may_have_a_factor_of_its_own_also_a_negative_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = head_case(3 * LOGIT_ROWS_CPU, 90, 3.0)
    hidden, targets, factors = hidden.view(3, -1, 24), targets.view(3, -1), torch.tensor([0.5, -2.0, 0.0])
    slow = [hidden.double().requires_grad_(), head.double().requires_grad_()]
    expected = sum(
        factor * plain_loss(slow[0][row : row + 1], slow[1], targets[row : row + 1], 90)
        for row, factor in enumerate(factors.tolist())
    )
    expected.backward()
    for kernel in (None, slow_kernel):
        monkeypatch.setattr(loss, "_kernel_of", lambda device, kernel=kernel: kernel)
        ours = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        found = head_loss(*ours, targets, 90, factors)
        found.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        for mine, its in zip(ours, slow, strict=True):
            assert (mine.grad.double() - its.grad).norm() / its.grad.norm() < 1e-5


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, head, targets = head_case(10, 90, 0.5)
    assert head_loss(hidden, head, targets, 90).item() == pytest.approx(plain_loss(hidden, head, targets, 90).item())
    assert math.isfinite(head_loss(hidden, head, torch.full_like(targets, IGNORED), 90))


def slow_kernel(logits: Tensor, targets: Tensor, cap: float, *, ignored: int) -> Tensor:
    """What model/triton_loss.py promises: the loss of each row; the logits become its gradient."""
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        losses = F.cross_entropy(cap * torch.tanh(leaf / cap), targets, ignore_index=ignored, reduction="none")
        losses.sum().backward()
    logits.copy_(leaf.grad)
    return losses.detach()


def test_a_kernel_in_place_of_torch_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kernel in (None, slow_kernel):
        monkeypatch.setattr(loss, "_kernel_of", lambda device, kernel=kernel: kernel)
        hidden, head, targets = head_case(2 * LOGIT_ROWS_CPU + 5, 90, 3.0)
        value = head_loss(hidden.requires_grad_(), head.requires_grad_(), targets, 90)
        value.backward()
        found.append((value, hidden.grad, head.grad))
    for ours, its in zip(*found, strict=True):
        torch.testing.assert_close(ours, its, rtol=1e-4, atol=1e-5)
