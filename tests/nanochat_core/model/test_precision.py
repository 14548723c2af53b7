"""What a model computes in while it trains, and what is said about it."""

import pytest
import torch

from nanochat_core.errors import SpecError
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import loss_sum
from nanochat_core.model.precision import prepare_training, refresh_fp8, use_fp8
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import rates_at
from nanochat_core.specs import ModelSpec, OptimizerSpec

SPEC = ModelSpec(arch="full", depth=2, n_embd=128, n_head=2, n_kv_head=2, sequence_len=32)
IDX = torch.randint(0, 300, (4, 33), generator=torch.Generator().manual_seed(0))


def model_with_weights() -> GPT:
    model = GPT(SPEC, 300)
    init_weights(model, 0)
    return model


def loss(model: GPT) -> torch.Tensor:
    return loss_sum(model, IDX[:, :-1], IDX[:, 1:]) / IDX[:, 1:].numel()


def test_the_choices_are_said_with_their_reasons() -> None:
    assert prepare_training(model_with_weights(), "fp32") == [
        "precision: fp32, on cpu",
        "attention: sdpa (the only one for cpu)",
    ]


def test_bf16_computes_in_bf16_over_weights_that_stay_fp32() -> None:
    model, plain = model_with_weights(), model_with_weights()
    prepare_training(model, "bf16")
    assert model.hidden(IDX[:, :-1]).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert loss(model).item() == pytest.approx(loss(plain).item(), rel=1e-3)
    loss(model).backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_fp8_is_refused_where_it_is_only_emulated() -> None:
    with pytest.raises(SpecError, match="'fp8' cannot be used, a cpu device only emulates FP8; use 'bf16'"):
        prepare_training(model_with_weights(), "fp8")


def trained(precision: str, steps: int = 12) -> list[float]:
    """Return the loss of each step, on the same rows."""
    model = model_with_weights()
    model.compute_dtype = torch.bfloat16
    if precision == "fp8":
        assert use_fp8(model) == 12  # four of each attention, two of each MLP; the gate is too small
    optimizer, losses = MuonAdamW(model), []
    for _ in range(steps):
        refresh_fp8(model)
        value = loss(model)
        value.backward()
        optimizer.step(rates_at(OptimizerSpec(), SPEC.n_embd, 1.0, 0.9))
        losses.append(value.item())
    return losses


def test_fp8_learns_as_bf16_does() -> None:
    bf16, fp8 = trained("bf16"), trained("fp8")
    assert fp8 != bf16
    assert fp8 == pytest.approx(bf16, rel=0.05)
    assert fp8[-1] < 0.8 * fp8[0]


def test_fp8_is_for_training_alone_and_its_copies_follow_the_weights() -> None:
    model, plain = model_with_weights(), model_with_weights()
    for each in (model, plain):
        each.compute_dtype = torch.bfloat16
        with torch.no_grad():
            each.blocks[0].mlp.c_proj.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    use_fp8(model)
    refresh_fp8(model)
    assert loss(model).item() != loss(plain).item()
    before = loss(model).item()
    with torch.no_grad():
        model.blocks[0].mlp.c_proj.weight.mul_(-1)
    assert loss(model).item() == before  # copies are followed when told to
    refresh_fp8(model)
    assert loss(model).item() != before
    with torch.no_grad():
        model.blocks[0].mlp.c_proj.weight.mul_(-1)
    model.eval()
    assert loss(model).item() == loss(plain).item()
