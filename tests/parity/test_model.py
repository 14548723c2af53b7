"""Both architectures are the reference's model and optimizer: its arrays, in float32 on the CPU, come out again."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nanochat_core.optim.muon_adamw import MuonAdamW
from tests.parity import golden_model
from tests.parity.golden_model import ARCHES, STEPS, Golden

PROJECT = Path(__file__).parents[2]
MOST_RANKS = 4


@pytest.fixture(scope="module", params=ARCHES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return golden_model.golden(request.param)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.detach() - theirs.view_as(ours)).norm() / theirs.norm()).item()


def largest_distance(golden: Golden, kind: str, tensors: dict[str, Tensor]) -> float:
    return max(distance(tensor, golden.of(kind, name)) for name, tensor in tensors.items())


@torch.no_grad()
def test_the_logits_are_the_reference_s(golden: Golden) -> None:
    assert distance(golden.model()(golden.idx), golden.arrays["logits"]) < 1e-5


def test_the_loss_and_every_gradient_are_the_reference_s(golden: Golden) -> None:
    model = golden.model()
    loss = golden.mean_loss(model)
    loss.backward()
    assert loss.item() == pytest.approx(golden.arrays["losses"][0].item(), rel=1e-6)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert largest_distance(golden, "grad", gradients) < 2e-5


def test_a_step_from_the_reference_s_gradients_gives_its_weights(golden: Golden) -> None:
    model = golden.model()
    for name, parameter in model.named_parameters():
        parameter.grad = golden.of("grad", name).view_as(parameter).clone()
    golden.step(MuonAdamW(model))
    assert largest_distance(golden, "after1", dict(model.named_parameters())) < 1e-6


def after(found: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    prefix = f"after{step}."
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def several_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what 1, 2, 3 and 4 ranks got."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.parity.golden_model"]
    ranks = [
        subprocess.Popen([*command, str(rank), str(MOST_RANKS), str(folder)], cwd=PROJECT) for rank in range(MOST_RANKS)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0] * MOST_RANKS
    return folder


@pytest.mark.parametrize("ranks", range(1, MOST_RANKS + 1))
def test_three_steps_give_the_reference_s_losses_and_weights(golden: Golden, ranks: int, several_ranks: Path) -> None:
    found = load_file(several_ranks / f"{golden.spec.arch}-{ranks}.safetensors")
    assert found["losses"].tolist() == pytest.approx(golden.arrays["losses"].tolist(), rel=1e-5)
    for step in (1, STEPS):
        assert largest_distance(golden, f"after{step}", after(found, step)) < 3e-4


@pytest.mark.parametrize("ranks", range(2, MOST_RANKS + 1))
def test_several_ranks_take_the_step_of_one(golden: Golden, ranks: int, several_ranks: Path) -> None:
    """Of the same micro-batches, also with more ranks than rows. Later steps drift, as the reference's own may."""
    one, several = (load_file(several_ranks / f"{golden.spec.arch}-{count}.safetensors") for count in (1, ranks))
    differing = {
        name: difference
        for name, tensor in after(one, 1).items()
        if (difference := distance(after(several, 1)[name], tensor)) > 1e-6
    }
    assert not differing
