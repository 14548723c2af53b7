"""One optimizer over all parameters does to each what its own rule says, and continues exactly from its state."""

import dataclasses

import pytest
import torch
from torch import Tensor

from nanochat_core.model.gpt import GPT
from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.muon import apply_update, muon_update, variance_shape
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import Rates, rates_at
from nanochat_core.optim.recipe import RECIPES, group_of
from nanochat_core.specs import Arch, OptimizerSpec
from tests.nanochat_core.inference.test_engine import random_model

RATES = Rates(
    embedding=0.3,
    head=0.05,
    matrix=0.02,
    momentum=0.9,
    value_embedding=0.15,
    residual_scale=0.005,
    input_scale=0.5,
    smear_backout=0.2,
    decay=0.1,
)


def give_gradients(model: GPT, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def one_by_one(model: GPT, gradients: list[list[Tensor]]) -> list[Tensor]:
    """Return the weights after steps with these gradients, each parameter on its own."""
    recipe, after = RECIPES[model.spec.arch], []
    for place, (name, parameter) in enumerate(model.named_parameters()):
        weight, group = parameter.detach().clone(), group_of(name)
        m, v = torch.zeros_like(weight), torch.zeros_like(weight)
        variance = torch.zeros(1, *variance_shape(*weight.shape)) if weight.dim() == 2 and recipe.cautious else None
        for step, gradient in enumerate((step_gradients[place] for step_gradients in gradients), start=1):
            if group == "matrix":
                update = muon_update(gradient[None], m[None], variance, recipe, mu=RATES.momentum, dtype=torch.float32)
                apply_update(weight, update[0], lr=RATES.matrix, decay=RATES.decay, cautious=recipe.cautious)
            else:
                lr = getattr(RATES, group)
                adamw_step(weight, gradient, m, v, step=step, lr=lr, group=recipe.group(group))
        after.append(weight)
    return after


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_each_group_takes_its_own_rule(arch: Arch) -> None:
    model, start = random_model(n_kv_head=1, arch=arch), random_model(n_kv_head=1, arch=arch)
    optimizer, gradients = MuonAdamW(model), []
    for seed in range(3):
        give_gradients(model, seed)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        optimizer.step(RATES)
    for ours, expected in zip(model.parameters(), one_by_one(start, gradients), strict=True):
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_a_loaded_optimizer_takes_the_very_same_steps(arch: Arch) -> None:
    model, other = random_model(arch=arch), random_model(seed=1, arch=arch)
    optimizer, loaded = MuonAdamW(model), MuonAdamW(other)
    give_gradients(model, 0)
    optimizer.step(RATES)
    other.load_state_dict(model.state_dict())
    loaded.load({name: tensor.clone() for name, tensor in optimizer.pieces().items()}, optimizer.step_count)
    for each, its_optimizer in ((model, optimizer), (other, loaded)):
        give_gradients(each, 1)
        its_optimizer.step(RATES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_norm_is_that_of_all_gradients_and_clipping_brings_it_to_the_bound() -> None:
    model, clipped = random_model(), random_model()
    optimizer, other = MuonAdamW(model), MuonAdamW(clipped)
    give_gradients(model, 0)
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]).item()
    for parameter, same in zip(model.parameters(), clipped.parameters(), strict=True):
        same.grad = parameter.grad.clone()
        parameter.grad.mul_(0.5 / norm)
    assert other.step(RATES, grad_clip=0.5) == pytest.approx(norm, rel=1e-5)
    assert optimizer.step(RATES, grad_clip=0.5) == pytest.approx(0.5, rel=1e-5)
    for ours, same in zip(optimizer.pieces().values(), other.pieces().values(), strict=True):
        torch.testing.assert_close(ours, same, rtol=1e-4, atol=1e-9)


def test_a_parameter_without_a_gradient_counts_as_having_one_of_zeros() -> None:
    model, other = random_model(), random_model()
    for each in (model, other):
        give_gradients(each, 0)
    model.wte.weight.grad = None
    other.wte.weight.grad.zero_()
    assert MuonAdamW(model).step(RATES) == MuonAdamW(other).step(RATES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rates_follow_schedule_scale_and_batch_and_only_the_tables_the_width() -> None:
    spec = OptimizerSpec(lr_scale=0.5)
    rates = rates_at(spec, 4 * 768, 0.5, 0.9, decay=0.1, batch_factor=2.0)
    assert dataclasses.asdict(rates) == {
        "embedding": spec.embedding_lr / 4,
        "head": spec.head_lr / 4,
        "value_embedding": spec.value_embedding_lr / 4,
        "matrix": spec.matrix_lr / 2,
        "residual_scale": spec.residual_scale_lr / 2,
        "input_scale": spec.input_scale_lr / 2,
        "smear_backout": spec.smear_backout_lr / 4,
        "momentum": 0.9,
        "decay": 0.1,
    }
