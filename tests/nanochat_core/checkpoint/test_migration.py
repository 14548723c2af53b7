"""A checkpoint of format 1 goes on here as it did where it was written (format_1/README.md)."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat_core import checkpoint
from nanochat_core.checkpoint.migration import pieces_of_format_1
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import Rates
from nanochat_core.training.loop import TrainState, train_step
from tests.nanochat_core.training.one_batch import OneBatch

FORMAT_1 = Path(__file__).parent / "format_1"
CPU = torch.device("cpu")
RATES = Rates(embedding=0.1, head=0.01, matrix=0.02, momentum=0.9)


def resumed(optimizer: dict[str, Tensor] | None = None) -> TrainState:
    found = checkpoint.load(FORMAT_1 / "step_00000006", tokenizer_hash="a" * 64, device=CPU)
    model = GPT(found.meta.model, found.meta.vocab_size)
    model.load_state_dict(dict(found.model))
    rows = torch.arange(4 * 17).reshape(4, 17).mul(7).remainder(23)
    state = TrainState(model, MuonAdamW(model), OneBatch(rows[:, :-1], rows[:, 1:]))
    state.optimizer.load(optimizer or found.optimizer, found.meta.optimizer_steps)
    assert found.meta.format_version == 1 and found.loader["lane.0.next_turn"].tolist() == [3]
    return state


def losses_of(state: TrainState) -> list[float]:
    world = World(0, 1, CPU)
    return [train_step(state, world, RATES, micro_rows=4, grad_clip=1.0)[0] for _ in range(4)]


def weights_of(state: TrainState) -> dict[str, float]:
    """Return of each parameter the sum of its elements, weighted from -1 to 1."""
    ramps = {
        name: torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).view_as(parameter)
        for name, parameter in state.model.named_parameters()
    }
    return {
        name: float((parameter.detach().double() * ramps[name]).sum())
        for name, parameter in state.model.named_parameters()
    }


def test_its_next_steps_are_those_of_the_code_that_wrote_it() -> None:
    expected, state = json.loads((FORMAT_1 / "next_steps.json").read_text()), resumed()
    assert losses_of(state) == pytest.approx(expected["losses"], rel=1e-5)
    assert weights_of(state) == pytest.approx(expected["weights"], abs=1e-3)


def test_the_check_sees_momenta_in_another_order() -> None:
    pieces = dict(checkpoint.load(FORMAT_1 / "step_00000006", tokenizer_hash="a" * 64, device=CPU).optimizer)
    first, second = (f"blocks.{layer}.attn.c_q.weight/momentum@0" for layer in (0, 1))
    pieces[first], pieces[second] = pieces[second], pieces[first]
    state = resumed(pieces)
    losses_of(state)
    expected = json.loads((FORMAT_1 / "next_steps.json").read_text())["weights"]
    differing = {name for name, value in weights_of(state).items() if abs(value - expected[name]) > 1e-3}
    assert "blocks.0.attn.c_q.weight" in differing


def test_stacked_momenta_are_dealt_out_in_the_order_of_the_blocks_parameters() -> None:
    found = checkpoint.load(FORMAT_1 / "step_00000006", tokenizer_hash="a" * 64, device=CPU)
    model = GPT(found.meta.model, found.meta.vocab_size)
    square = [name for name, parameter in model.blocks.named_parameters() if parameter.shape == (16, 16)]
    stacks = {"muon.16x16": torch.arange(len(square)).view(-1, 1, 1)}
    stacks |= {f"muon.{shape}": torch.zeros(4, 1, 1) for shape in ("8x16", "64x16", "16x64")}
    stacks |= {f"{table}.{slot}": torch.zeros(1) for table in ("embedding", "head") for slot in "mv"}
    pieces = pieces_of_format_1(stacks, model.state_dict())
    assert [pieces[f"blocks.{name}/momentum@0"].item() for name in square] == list(range(len(square)))


def test_it_is_saved_again_in_the_present_format(tmp_path: Path) -> None:
    found = checkpoint.load(FORMAT_1 / "step_00000006", tokenizer_hash="a" * 64, device=CPU)
    meta = found.meta.model_copy(update={"format_version": checkpoint.FORMAT_VERSION})
    path = checkpoint.save(tmp_path, found.model_copy(update={"meta": meta}), World(0, 1, CPU), keep=1)
    again = checkpoint.load(path, tokenizer_hash="a" * 64, device=CPU)
    assert again.meta.format_version == 2 and set(again.optimizer) == set(found.optimizer)
    assert losses_of(resumed(again.optimizer)) == losses_of(resumed())


def test_what_goes_on_from_it_is_saved_in_the_present_format(tmp_path: Path) -> None:
    found = checkpoint.load(FORMAT_1 / "step_00000006", tokenizer_hash="a" * 64, device=CPU)
    state = resumed()
    losses_of(state)
    later = found.model_copy(
        update={
            "meta": found.meta.model_copy(update={"step": 10}),
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.pieces(),
        }
    )
    path = checkpoint.save(tmp_path, later, World(0, 1, CPU), keep=1)
    again = checkpoint.load(path, tokenizer_hash="a" * 64, device=CPU)
    assert again.meta.format_version == checkpoint.FORMAT_VERSION > 1
    assert set(again.optimizer) == set(state.optimizer.pieces())
