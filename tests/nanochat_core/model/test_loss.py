import pytest
import torch
from torch.nn import functional as F

from nanochat_core.model.loss import IGNORED, loss_sum, token_nll
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
