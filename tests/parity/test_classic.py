"""`arch: classic` is the reference's model and optimizer: its arrays, computed in float32 on CPU, come out again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import IGNORED, loss_sum
from nanochat_core.optim.muon_adamw import MuonAdamW, rates_at
from nanochat_core.specs import ModelSpec, OptimizerSpec

GOLDEN = Path(__file__).parent / "golden" / "classic.safetensors"
SPEC = ModelSpec(depth=4, n_embd=64, n_head=2, n_kv_head=1, sequence_len=256)
VOCAB_SIZE = 512
MOMENTUM = 0.95
MATRICES = {
    "attn.c_q": "w_q",
    "attn.c_k": "w_k",
    "attn.c_v": "w_v",
    "attn.c_proj": "w_o",
    "mlp.c_fc": "w_1",
    "mlp.c_proj": "w_2",
}
NAMES = {"wte.weight": "embed", "lm_head.weight": "head"} | {
    f"blocks.{layer}.{ours}.weight": f"layer.{layer}.{theirs}"
    for layer in range(4)
    for ours, theirs in MATRICES.items()
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def model(golden: dict[str, Tensor]) -> GPT:
    model = GPT(SPEC, VOCAB_SIZE)
    model.load_state_dict({ours: golden[f"weight.{theirs}"] for ours, theirs in NAMES.items()})
    return model


def distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def largest_distance(model: GPT, golden: dict[str, Tensor], prefix: str, *, of_gradients: bool = False) -> float:
    pairs = (
        (parameter.grad if of_gradients else parameter, NAMES[name]) for name, parameter in model.named_parameters()
    )
    return max(distance(ours.detach(), golden[f"{prefix}.{theirs}"]) for ours, theirs in pairs)


def mean_loss(model: GPT, golden: dict[str, Tensor]) -> Tensor:
    targets = golden["targets"].long()
    return loss_sum(model, golden["idx"].long(), targets) / (targets != IGNORED).sum()


def step(optimizer: MuonAdamW) -> None:
    optimizer.step(rates_at(OptimizerSpec(), SPEC.n_embd, 1.0, MOMENTUM))


def test_the_logits_are_the_reference_s(model: GPT, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        assert distance(model(golden["idx"].long()), golden["logits"]) < 1e-5


def test_the_loss_and_every_gradient_are_the_reference_s(model: GPT, golden: dict[str, Tensor]) -> None:
    loss = mean_loss(model, golden)
    loss.backward()
    assert loss.item() == pytest.approx(golden["losses"][0].item(), rel=1e-6)
    assert largest_distance(model, golden, "grad", of_gradients=True) < 2e-5


def test_a_step_from_the_reference_s_gradients_gives_its_weights(model: GPT, golden: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = golden[f"grad.{NAMES[name]}"].clone()
    step(MuonAdamW(model))
    assert largest_distance(model, golden, "after1") < 1e-6


def test_three_steps_end_to_end_give_the_reference_s_losses_and_weights(model: GPT, golden: dict[str, Tensor]) -> None:
    optimizer = MuonAdamW(model)
    for number in range(3):
        model.zero_grad()
        loss = mean_loss(model, golden)
        assert loss.item() == pytest.approx(golden["losses"][number].item(), rel=1e-5)
        loss.backward()
        step(optimizer)
        if number == 0:
            assert largest_distance(model, golden, "after1") < 3e-4
    assert largest_distance(model, golden, "after3") < 3e-4
