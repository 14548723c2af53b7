"""DPO: a loss computed by hand, a gradient that is the obvious one, and the slope that finite differences find."""

import math

import pytest
import torch
from torch import Tensor

from nanochat_core.data.preference_loader import PairBatch
from nanochat_core.model.gpt import GPT
from nanochat_core.training.dpo import LogProbabilities
from nanochat_core.training.pair_steps import bradley_terry, described, pair_facts
from tests.nanochat_core.inference.test_engine import random_model
from tests.nanochat_core.training.pair_batches import pair_batch

PAIRS = [([1, 2], [5, 6, 7], [8, 9]), ([3], [4], [4, 11, 12, 13])]
BETA = 0.5


@pytest.mark.parametrize(("beta", "odds"), [(1.0, 6.0), (2.0, 36.0)])
def test_the_loss_is_the_one_computed_by_hand(beta: float, odds: float) -> None:
    """An answer twice as likely as under the reference against one a third as likely: σ(β·ln 6) = 6^β / (6^β + 1)."""
    model = random_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token is as likely as any other
    nats = math.log(model.vocab_size)
    reference = torch.tensor([[-3 * nats - math.log(2)], [-2 * nats + math.log(3)]], dtype=torch.float64)
    scores = LogProbabilities(beta, reference)(model, pair_batch(PAIRS[:1])).scores
    assert scores.tolist() == pytest.approx([beta * math.log(2), -beta * math.log(3)], rel=1e-5)
    losses, slopes = bradley_terry(scores)
    assert losses.item() == pytest.approx(math.log((odds + 1) / odds), rel=1e-5)
    assert slopes.tolist() == pytest.approx([-1 / (odds + 1), 1 / (odds + 1)], rel=1e-5)


def slow_logprobs(model: GPT, batch: PairBatch) -> Tensor:
    """Return log p of each answer, token by token."""
    logprobs = torch.log_softmax(model(batch.idx), -1)
    rows = []
    for row, targets in enumerate(batch.targets):
        rows.append(
            sum((logprobs[row, place, token] for place, token in enumerate(targets) if token >= 0), torch.zeros(()))
        )
    return torch.stack(rows)


def slow_loss(model: GPT, batch: PairBatch, reference: Tensor) -> Tensor:
    chosen, rejected = (slow_logprobs(model, batch) - reference).chunk(2)
    return -torch.log(torch.sigmoid(BETA * (chosen - rejected))).mean()


def learned(model: GPT, batch: PairBatch, reference: Tensor) -> float:
    """Leave the gradients of the mean loss in the model and return that."""
    scored = LogProbabilities(BETA, reference.view(2, -1))(model, batch)
    losses, slopes = bradley_terry(scored.scores)
    scored.weighted(slopes / len(losses)).backward()
    return float(losses.mean())


def test_loss_and_gradient_are_those_of_the_obvious_way() -> None:
    batch = pair_batch(PAIRS)
    with torch.no_grad():
        reference = slow_logprobs(random_model(seed=1), batch)
    ours, slow = random_model(), random_model()
    loss = learned(ours, batch, reference)
    expected = slow_loss(slow, batch, reference)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for found, wanted in zip(ours.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_the_slope_that_finite_differences_find() -> None:
    batch, step = pair_batch(PAIRS), 2e-3
    with torch.no_grad():
        reference = slow_logprobs(random_model(seed=1), batch)
    model = random_model()
    learned(model, batch, reference)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator)
        direction = direction / direction.norm() + parameter.grad / parameter.grad.norm()
        slope = float((direction * parameter.grad).sum())
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                losses.append(slow_loss(model, batch, reference).item())
                parameter.sub_(sign * step * direction)
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=0.02)


def test_what_stands_behind_a_row_and_in_its_prompt_changes_no_score() -> None:
    model = random_model()
    together = LogProbabilities()(model, pair_batch(PAIRS)).scores
    alone = [LogProbabilities()(model, pair_batch([pair])).scores for pair in PAIRS]
    torch.testing.assert_close(together, torch.stack(alone).T.flatten(), rtol=1e-5, atol=1e-5)


def test_the_model_that_is_its_own_reference_finds_all_answers_equal() -> None:
    model, batch = random_model(), pair_batch(PAIRS)
    reference = LogProbabilities()(model, batch).scores.view(2, -1)
    assert LogProbabilities(BETA, reference)(model, batch).scores.tolist() == [0.0] * 4


def test_facts_of_pairs_are_means_with_their_error() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, 3.0], dtype=torch.float64)  # margins 1, 0, −1
    found = described(pair_facts(scores).sum(dim=1).tolist(), 3, "val")
    assert found["val/accuracy"] == pytest.approx(0.5)
    assert found["val/margin"] == pytest.approx(0.0)
    assert found["val/margin_error"] == pytest.approx(1 / math.sqrt(3))
    assert (found["val/chosen_reward"], found["val/rejected_reward"]) == pytest.approx((1.0, 1.0))
    assert found["val/loss"] == pytest.approx((math.log1p(math.e) + math.log1p(math.exp(-1)) + math.log(2)) / 3)
    assert all(math.isfinite(value) for value in described([0.0] * 6, 0, "train").values())


def test_margins_of_any_size_give_finite_losses_and_slopes() -> None:
    losses, slopes = bradley_terry(torch.tensor([1e4, -1e4, -1e4, 1e4]))
    assert losses.tolist() == [0.0, 2e4]
    assert slopes.tolist() == [0.0, -1.0, 0.0, 1.0]
