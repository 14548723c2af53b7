"""One optimizer over all parameters does to each what its own rule says, and continues exactly from its state."""

import math

import pytest
import torch
from torch import Tensor

from nanochat_core.model.gpt import GPT
from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.muon import muon_step
from nanochat_core.optim.muon_adamw import MuonAdamW, Rates, rates_at
from nanochat_core.specs import OptimizerSpec
from tests.nanochat_core.inference.test_engine import random_model
from tests.nanochat_core.optim.test_optimizers import slow_newton_schulz

RATES = Rates(embedding=0.3, head=0.05, matrix=0.02, momentum=0.9)


def give_gradients(model: GPT, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_muon_is_the_slow_rule_on_each_matrix_of_the_stack(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weights, momentum = [torch.randn(shape) for _ in range(3)], torch.zeros(3, *shape)
    slow, slow_momentum = [weight.double() for weight in weights], [torch.zeros(shape).double() for _ in weights]
    for mu in (0.85, 0.9):
        gradients = [torch.randn(shape) for _ in weights]
        for place, gradient in enumerate(gradients):
            slow_momentum[place] = mu * slow_momentum[place] + (1 - mu) * gradient
            nesterov = (1 - mu) * gradient + mu * slow_momentum[place]
            factor = math.sqrt(max(1.0, shape[0] / shape[1]))
            slow[place] = slow[place] - 0.1 * factor * slow_newton_schulz(nesterov)
        muon_step(weights, gradients, momentum, lr=0.1, mu=mu, dtype=torch.float32)
    torch.testing.assert_close(torch.stack(weights).double(), torch.stack(slow), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(momentum.double(), torch.stack(slow_momentum), rtol=1e-5, atol=1e-6)


def test_muon_is_blind_to_the_scale_of_the_gradient() -> None:
    torch.manual_seed(0)
    gradient, results = torch.randn(6, 8), []
    for scale in (1.0, 1000.0):
        weight = torch.zeros(6, 8)
        muon_step([weight], [scale * gradient], torch.zeros(1, 6, 8), lr=1.0, mu=0.9, dtype=torch.float32)
        results.append(weight)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def one_by_one(model: GPT, gradients: list[list[Tensor]]) -> list[Tensor]:
    """Return the weights after steps with these gradients, each parameter on its own."""
    lr = {"wte.weight": RATES.embedding, "lm_head.weight": RATES.head}
    after = []
    for place, (name, parameter) in enumerate(model.named_parameters()):
        weight = parameter.detach().clone()
        m, v = torch.zeros_like(weight), torch.zeros_like(weight)
        for step, gradient in enumerate((step_gradients[place] for step_gradients in gradients), start=1):
            if name in lr:
                adamw_step(weight, gradient, m, v, step=step, lr=lr[name])
            else:
                muon_step([weight], [gradient], m[None], lr=RATES.matrix, mu=RATES.momentum, dtype=torch.float32)
        after.append(weight)
    return after


def test_embedding_and_head_take_adamw_and_every_matrix_of_a_block_muon() -> None:
    model, start = random_model(n_kv_head=1), random_model(n_kv_head=1)
    optimizer, gradients = MuonAdamW(model), []
    for seed in range(3):
        give_gradients(model, seed)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        optimizer.step(RATES)
    for ours, expected in zip(model.parameters(), one_by_one(start, gradients), strict=True):
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_loaded_optimizer_takes_the_very_same_steps() -> None:
    model, other = random_model(), random_model(seed=1)
    optimizer, loaded = MuonAdamW(model), MuonAdamW(other)
    give_gradients(model, 0)
    optimizer.step(RATES)
    other.load_state_dict(model.state_dict())
    loaded.load({name: tensor.clone() for name, tensor in optimizer.state.items()}, optimizer.step_count)
    for each, its_optimizer in ((model, optimizer), (other, loaded)):
        give_gradients(each, 1)
        its_optimizer.step(RATES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_rates_follow_schedule_and_scale_and_only_adamw_s_the_width() -> None:
    spec = OptimizerSpec(lr_scale=0.5)
    rates = rates_at(spec, 4 * 768, 0.5, 0.9)
    assert rates == Rates(spec.embedding_lr / 8, spec.head_lr / 8, spec.matrix_lr / 4, 0.9)
