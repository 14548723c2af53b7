"""The optimizer step: micro-batches add up, nothing to learn is no harm, and a loss that is no number stops it."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nanochat_core.distributed import World
from nanochat_core.errors import DataError
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import IGNORED
from nanochat_core.optim.muon_adamw import MuonAdamW, Rates
from nanochat_core.specs import ModelSpec
from nanochat_core.training.loop import TrainState, train_step

WORLD = World(0, 1, torch.device("cpu"))
RATES = Rates(embedding=0.1, head=0.01, matrix=0.02, momentum=0.9)


@dataclass
class OneBatch:
    """The same rows at each step."""

    idx: Tensor
    targets: Tensor

    def batch(self) -> tuple[Tensor, Tensor]:
        return self.idx, self.targets

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None: ...


def make_state(targets: Tensor | None = None) -> TrainState:
    model = GPT(ModelSpec(depth=2, n_embd=32, n_head=2, n_kv_head=2, sequence_len=16), 40)
    init_weights(model, 0)
    idx = torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(0))
    return TrainState(model, MuonAdamW(model), OneBatch(idx, idx.roll(-1, 1) if targets is None else targets), "fp32")


def weights(state: TrainState) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.model.parameters()]


def test_micro_batches_add_up_to_the_whole_batch_although_rows_have_different_counts() -> None:
    targets = torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(1))
    targets[0, 2:] = IGNORED
    targets[3] = IGNORED  # a micro-batch with nothing to learn
    states = [make_state(targets.clone()) for _ in range(3)]
    losses = []
    for state, micro_rows in zip(states, (4, 2, 1), strict=True):
        for _ in range(3):
            loss, _, _, _ = train_step(state, WORLD, RATES, micro_rows=micro_rows, grad_clip=1.0)
        losses.append(loss)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    for state in states[1:]:
        for ours, whole in zip(weights(state), weights(states[0]), strict=True):
            assert ((ours - whole).norm() / whole.norm().clamp(min=1e-12)).item() < 1e-4


def test_a_step_with_nothing_to_learn_has_loss_zero_and_keeps_the_weights() -> None:
    state = make_state(torch.full((4, 16), IGNORED))
    before = weights(state)
    loss, norm, _, _ = train_step(state, WORLD, RATES, micro_rows=2, grad_clip=1.0)
    assert (loss, norm) == (0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))


def test_a_loss_that_is_no_number_stops_before_the_update() -> None:
    state = make_state()
    with torch.no_grad():
        state.model.lm_head.weight[3, 3] = float("nan")
    before = weights(state)
    with pytest.raises(DataError, match="The loss of step 1 is nan"):
        train_step(state, WORLD, RATES, micro_rows=4, grad_clip=1.0)
    assert state.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], weights(state)[:-1], strict=True))


def test_the_loss_falls_on_the_same_batch() -> None:
    state = make_state()
    losses = [train_step(state, WORLD, RATES, micro_rows=4, grad_clip=1.0)[0] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert (state.step, state.tokens) == (30, 30 * 64)
