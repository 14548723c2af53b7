"""The optimizer step: micro-batches add up, nothing to learn is no harm, a loss that is no number stops it, and too
little memory does not.
"""

import pytest
import torch
from torch import Tensor

from nanochat_core.distributed import World
from nanochat_core.errors import NonFiniteLoss, SpecError
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import IGNORED, loss_sum
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import Rates
from nanochat_core.specs import ModelSpec
from nanochat_core.training.loop import TrainState, next_batch, train_step
from tests.nanochat_core.training.one_batch import OneBatch

WORLD = World(0, 1, torch.device("cpu"))
RATES = Rates(embedding=0.1, head=0.01, matrix=0.02, momentum=0.9)


def make_state(targets: Tensor | None = None) -> TrainState:
    model = GPT(ModelSpec(depth=2, n_embd=32, n_head=2, n_kv_head=2, sequence_len=16), 40)
    init_weights(model, 0)
    idx = torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(0))
    return TrainState(model, MuonAdamW(model), OneBatch(idx, idx.roll(-1, 1) if targets is None else targets))


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
    with pytest.raises(NonFiniteLoss, match=r"loss of step 1 is nan.* Batch 1 .* from the documents the\.batch \(0\)"):
        train_step(state, WORLD, RATES, micro_rows=4, grad_clip=1.0)
    assert state.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], weights(state)[:-1], strict=True))


def test_the_loss_falls_on_the_same_batch() -> None:
    state = make_state()
    losses = [train_step(state, WORLD, RATES, micro_rows=4, grad_clip=1.0)[0] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert (state.step, state.tokens) == (30, 30 * 64)


class SmallDevice:
    """A loss whose device holds so many rows; it takes a part of the backward pass along before it fails."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows, self.asked = most_rows, []

    def __call__(self, model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
        self.asked.append(len(idx))
        if len(idx) > self.most_rows:
            loss_sum(model, idx[:1], targets[:1]).backward()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
        return loss_sum(model, idx, targets)


def test_where_memory_ends_a_step_is_done_again_in_smaller_pieces_and_so_are_the_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, large, device = make_state(), make_state(), SmallDevice(1)
    for _ in range(2):
        found = train_step(small, WORLD, RATES, micro_rows=4, grad_clip=1.0, loss_function=device)
        expected = train_step(large, WORLD, RATES, micro_rows=1, grad_clip=1.0)
        assert found == expected
    assert device.asked == [4, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(weights(small), weights(large), strict=True))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "out of memory with 4 rows at a time (CUDA out of memory)" in said[0]


def test_pieces_that_are_counted_in_tokens_are_halved_too() -> None:
    state, device = make_state(), SmallDevice(2)
    train_step(state, WORLD, RATES, micro_rows=99, micro_tokens=64, grad_clip=1.0, loss_function=device)
    assert device.asked == [4, 2, 2]


def test_a_row_that_does_not_fit_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(SpecError, match=r"One row of 16 tokens does not fit .* Lower model\.depth"):
        train_step(make_state(), WORLD, RATES, micro_rows=4, grad_clip=1.0, loss_function=SmallDevice(0))


def test_a_gradient_that_is_no_number_stops_the_run_too() -> None:
    def endless_gradient(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
        return loss_sum(model, idx, targets) + 0 * model.lm_head.weight[0, 0].sub(model.lm_head.weight[0, 0]).sqrt()

    with pytest.raises(NonFiniteLoss, match="The gradient's norm of step 1 is nan"):
        train_step(make_state(), WORLD, RATES, micro_rows=4, grad_clip=1.0, loss_function=endless_gradient)


def test_the_weights_change_only_after_those_who_need_them_have_said_so() -> None:
    state, seen = make_state(), []
    before = weights(state)
    state.before_update = lambda: seen.append([torch.equal(a, b) for a, b in zip(before, weights(state), strict=True)])
    train_step(state, WORLD, RATES, micro_rows=4, grad_clip=1.0)
    assert len(seen) == 1 and all(seen[0])
    assert not all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))


def test_batches_that_are_to_be_left_out_are_passed_over() -> None:
    state, taken = make_state(), iter(range(1, 100))
    state.loader.batch = lambda: (next(taken), None)  # type: ignore[method-assign]
    state.skipped_batches = (1, 4, 5)
    numbers = []
    for _ in range(5):
        numbers.append(next_batch(state)[0])
        state.step += 1
    assert numbers == [2, 3, 6, 7, 8]
