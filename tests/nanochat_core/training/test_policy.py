"""The policy's loss: the obvious sum, its gradient by finite differences, and the right expectation over all draws."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from nanochat_core.inference.engine import Engine, Prompt
from nanochat_core.inference.interface import Completion
from nanochat_core.model.gpt import GPT
from nanochat_core.training.policy import Distribution, PolicyRow, discrepancy, policy_loss, policy_terms
from nanochat_core.training.reinforce import reinforce_rows
from nanochat_core.training.rollouts import Answered
from tests.nanochat_core.inference.test_engine import TOKENIZER, prompt_ids, random_model

DISTRIBUTIONS = [
    Distribution(),
    Distribution(0.6),
    Distribution(1.0, 4),
    Distribution(1.7, 9),
    Distribution(1.0, 10**6),
]
ROWS = [PolicyRow([1, 2, 5, 6, 7], [0, 0, 1, 0, 1], 0.5), PolicyRow([1, 9, 3], [0, 0, 1], -0.25)]


def log_softmax(logits: Tensor, distribution: Distribution, chosen: int) -> Tensor:
    """Return log p (V,) of the distribution, in which `chosen` can always be drawn (−1: nothing besides)."""
    scaled = logits.double() / distribution.temperature
    order = scaled.argsort(descending=True)[: distribution.top_k].tolist()
    kept = torch.full_like(scaled, -math.inf)
    kept[[*order, chosen] if chosen >= 0 else order] = 0
    return torch.log_softmax(scaled + kept, -1)


def slow_policy_loss(model: GPT, rows: list[PolicyRow], distribution: Distribution) -> Tensor:
    total = torch.zeros(())
    for ids, mask, advantage, _ in rows:
        for place in range(1, len(ids)):
            if mask[place]:
                logits = model(torch.tensor([ids[:place]]))[0, -1]
                total = total - advantage * log_softmax(logits, distribution, ids[place])[ids[place]]
    return total


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_the_loss_and_its_gradient_are_those_of_the_obvious_sum(distribution: Distribution) -> None:
    gradients = []
    for loss_of in (policy_loss, slow_policy_loss):
        model = random_model()
        loss = loss_of(model, ROWS, distribution)
        loss.backward()
        gradients.append((loss.item(), [parameter.grad for parameter in model.parameters()]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for ours, slow in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    model, distribution, width = random_model(), Distribution(0.8, 6), 1e-3
    policy_loss(model, ROWS, distribution).backward()
    for number, parameter in enumerate(model.parameters()):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        direction /= direction.norm()
        values = []
        for factor in (width, -2 * width):
            with torch.no_grad():
                parameter += factor * direction
                values.append(policy_loss(model, ROWS, distribution).item())
        with torch.no_grad():
            parameter += width * direction
        slope = (values[0] - values[1]) / (2 * width)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=0.02, abs=3e-3)


def chances(model: GPT, prompt: list[int], drawn: Distribution) -> dict[tuple[int, int], Tensor]:
    """Return the probability of each answer of two tokens that can be drawn after the prompt."""
    found = {}
    first = log_softmax(model(torch.tensor([prompt]))[0, -1], drawn, -1)
    for a in first.isfinite().nonzero()[:, 0].tolist():
        second = log_softmax(model(torch.tensor([[*prompt, a]]))[0, -1], drawn, -1)
        found |= {(a, b): (first[a] + second[b]).exp() for b in second.isfinite().nonzero()[:, 0].tolist()}
    return found


@pytest.mark.parametrize("drawn", [Distribution(1.0, 3), Distribution(0.5, 3)], ids=str)
def test_over_all_draws_the_gradient_is_that_of_the_expected_reward_only_in_their_own_distribution(
    drawn: Distribution,
) -> None:
    model, prompt = random_model(), prompt_ids("which?")
    p = chances(model, prompt, drawn)
    rewards = dict(zip(p, torch.rand(9, generator=torch.manual_seed(2)).tolist(), strict=True))
    expected_reward = sum(p[answer] * reward for answer, reward in rewards.items())
    (expected,) = torch.autograd.grad(-expected_reward, model.lm_head.weight)
    rows = []
    for pair in itertools.product(p, repeat=2):  # all groups of two samples, as often as they come
        samples = [Completion(ids=answer, mask=(1, 1), parts=(), finish_reason="length") for answer in pair]
        group = Answered({}, prompt, samples, [rewards[answer] for answer in pair])
        chance = (p[pair[0]] * p[pair[1]]).item()
        rows += [row._replace(advantage=row.advantage * chance) for row in reinforce_rows([group])[0]]
    # A group of S samples with the mean of all as baseline gives S − 1 times the gradient: here once.
    policy_loss(model, rows, drawn).backward()
    torch.testing.assert_close(model.lm_head.weight.grad, expected, rtol=1e-3, atol=1e-6)
    model.zero_grad()
    policy_loss(model, rows, Distribution()).backward()  # the whole softmax is another one
    assert (model.lm_head.weight.grad - expected).norm() > 0.02 * expected.norm()


@pytest.mark.parametrize("drawn", [Distribution(), Distribution(0.7, 5)], ids=str)
@pytest.mark.parametrize("shares_weights", [False, True])
def test_the_engine_says_with_which_probability_it_drew_and_training_finds_the_same(
    drawn: Distribution, shares_weights: bool
) -> None:
    model = random_model()
    engine = Engine(model, TOKENIZER, shares_weights=shares_weights)
    ask = Prompt(
        prompt_ids("hello"), 6, max_new_tokens=9, temperature=drawn.temperature, top_k=drawn.top_k, draw_logprobs=True
    )
    (completions,) = engine.generate([ask])
    assert all(len(completion.draw_logprobs) == len(completion.ids) for completion in completions)
    group = Answered({}, list(ask.ids), completions, [float(place) for place in range(6)])
    rows, count = reinforce_rows([group])
    terms = policy_terms(model, rows, drawn)
    assert len(terms.drawn) == len(terms.logprobs) == count
    torch.testing.assert_close(terms.logprobs, terms.drawn, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.lm_head.weight += 0.1 * torch.randn(model.lm_head.weight.shape, generator=torch.manual_seed(0))
    moved = policy_terms(model, rows, drawn)
    apart = discrepancy(moved.logprobs, moved.drawn)
    assert apart.min() >= 0 and apart.mean() > 1e-3


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-9), (torch.bfloat16, 2e-3)], ids=str)
def test_what_is_drawn_from_and_what_learns_are_as_near_as_the_numbers_allow(dtype: torch.dtype, most: float) -> None:
    model = random_model()
    model.compute_dtype = dtype
    engine = Engine(model, TOKENIZER, shares_weights=True)
    ask = Prompt(prompt_ids("hello"), 8, max_new_tokens=12, temperature=1.0, draw_logprobs=True)
    for _ in range(2):
        (completions,) = engine.generate([ask])
        rows, _ = reinforce_rows([Answered({}, list(ask.ids), completions, [float(place) for place in range(8)])])
        terms = policy_terms(model, rows)
        terms.loss.backward()
        assert 0 <= discrepancy(terms.logprobs, terms.drawn).mean() < most
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        with torch.no_grad():  # the engine follows the weights that are trained, cast or not
            for parameter in model.parameters():
                parameter.mul_(1.5)


def test_the_entropy_is_that_of_the_distribution_that_is_drawn_from() -> None:
    model = random_model()
    row = PolicyRow([1, 2, 5], [0, 0, 1], 1.0)
    logits = model(torch.tensor([[1, 2]]))[0, -1].detach()
    for drawn in DISTRIBUTIONS:
        logp = log_softmax(logits, drawn, 5)
        entropy = -(logp.exp() * logp.clamp(min=-1e9)).sum()
        assert policy_terms(model, [row], drawn).entropies.item() == pytest.approx(entropy.item(), rel=1e-4)


def test_rows_without_a_token_to_learn_cost_nothing_and_give_no_nan() -> None:
    model = random_model()
    terms = policy_terms(model, [PolicyRow([1, 2, 3], [0, 0, 0], 1.0)])
    terms.loss.backward()
    assert terms.loss.item() == 0 and len(terms.logprobs) == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
