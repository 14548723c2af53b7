"""The optimizer step and the generator of steps that pretraining, mid-training and SFT share.

`TrainState` is what a checkpoint holds. Resuming is bitwise: the same state gives the same next step.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import IGNORED, loss_sum
from nanochat_core.model.precision import refresh_fp8
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import Rates, rates_at
from nanochat_core.optim.schedules import muon_decay, muon_momentum, rate_multiplier
from nanochat_core.specs import OptimizerSpec
from nanochat_core.training.broken_batch import batch_of, check_finite
from nanochat_core.training.garbage import RareCollection
from nanochat_core.training.micro_batch import Halvings

LossFunction = Callable[[GPT, Tensor, Tensor], Tensor]


class Loader(Protocol):
    """Where batches come from. `state` is tensors by name; `load` takes what any number of ranks have saved."""

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return this rank's rows of the next step: ids and targets, int64 (rows, T)."""
        ...

    def origins(self) -> dict[str, list[int]]:
        """Return what is in the rows of the batch last given: file or kind -> numbers in it."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class TrainState:
    """A moment of training: all that the next step depends on. `skipped_batches` are left out, counted from 1.

    `before_update` is called when the gradients are there and the weights are about to change. `halvings` is no part of
    a checkpoint: it changes the result by rounding only.
    """

    model: GPT
    optimizer: MuonAdamW
    loader: Loader
    step: int = 0
    tokens: int = 0
    skipped_batches: tuple[int, ...] = ()
    before_update: Callable[[], None] = lambda: None
    halvings: Halvings = field(default_factory=Halvings)


@dataclass(frozen=True)
class StepInfo:
    """What one optimizer step did. `loss` is nats per trained token; `seconds` is wall clock."""

    step: int
    loss: float
    grad_norm: float
    lr_multiplier: float
    seconds: float
    batch_tokens: int
    should_stop: bool
    extra: dict[str, float] = field(default_factory=dict)  # more numbers for the metrics


def train_step(
    state: TrainState,
    world: World,
    rates: Rates,
    *,
    micro_rows: int,
    grad_clip: float | None,
    micro_tokens: int | None = None,
    loss_function: LossFunction = loss_sum,
    stop_requested: bool = False,
) -> tuple[float, float, int, bool]:
    """Do one optimizer step; return loss (nats per trained token), gradient norm, tokens, whether to stop.

    The loss is divided by the trained tokens of all micro-batches and ranks, and all ranks stop where one must. Raises
    NonFiniteLoss as `update` does.
    """
    idx, targets = next_batch(state)
    device = world.device
    trained = world.sum_((targets != IGNORED).sum().to(device, world.sum_dtype)).clamp(min=1)

    def add_gradients(rows: int) -> Tensor:
        """Return this rank's share of the mean loss; the gradients are those of the same, and set out as they come."""
        state.optimizer.expect_more_backward()
        total = torch.zeros((), dtype=world.sum_dtype, device=device)
        pieces = list(micro_batches(idx, targets, rows))
        for number, (micro_idx, micro_targets) in enumerate(pieces, start=1):
            loss = loss_function(state.model, micro_idx.to(device), micro_targets.to(device))
            if number == len(pieces):
                state.optimizer.expect_last_backward()
            (loss / trained.to(loss.dtype)).backward()
            total += loss.detach()
        return total / trained

    refresh_fp8(state.model)
    share = state.halvings.attempt(state.model, rows_of(idx, micro_rows, micro_tokens), add_gradients)
    state.optimizer.start_reduction()
    # One reduction for loss, tokens and the wish to stop, so that all ranks stop after the same step; one wait for it.
    numbers = torch.stack([share, share.new_tensor(idx.numel()), share.new_tensor(float(stop_requested))])
    loss_mean, tokens, stopping = world.sum_(numbers).tolist()
    norm = update(state, world, loss_mean, rates, grad_clip=grad_clip)
    state.tokens += int(tokens)
    return loss_mean, norm, int(tokens), stopping > 0


def next_batch(state: TrainState) -> tuple[Tensor, Tensor]:
    """Return the ids and targets of the state's next step, after those that are to be left out."""
    step, skipped = state.step, state.skipped_batches
    for _ in range(batch_of(step + 1, skipped) - batch_of(step, skipped) - 1):
        state.loader.batch()
    return state.loader.batch()


def update(state: TrainState, world: World, loss: float, rates: Rates, *, grad_clip: float | None) -> float:
    """Change the weights by the gradients that are there, count the step, and return the gradients' norm.

    Raises NonFiniteLoss where the loss (the same on all ranks) is not finite, before the weights change, or where the
    norm is not, after they did: nothing of that step is saved.
    """
    step = state.step + 1
    batch = batch_of(step, state.skipped_batches)
    check_finite("loss", loss, step, batch, state.loader, world)
    state.before_update()
    norm = state.optimizer.step(rates, grad_clip=grad_clip)
    check_finite("gradient's norm", norm, step, batch, state.loader, world)
    state.step = step
    return norm


def rows_of(idx: Tensor, micro_rows: int, micro_tokens: int | None) -> int:
    """Return the rows of a piece of `idx` (B, T): as many as hold `micro_tokens` tokens where that is given."""
    return max(1, micro_tokens // idx.shape[1]) if micro_tokens else micro_rows


def micro_batches(
    idx: Tensor, targets: Tensor, micro_rows: int, micro_tokens: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a batch in pieces of `micro_rows` rows or, where given, of as many as hold `micro_tokens` tokens."""
    rows = rows_of(idx, micro_rows, micro_tokens)
    for row in range(0, len(idx), rows):
        yield idx[row : row + rows], targets[row : row + rows]


@dataclass(frozen=True)
class LoopSettings:
    """How long to train, at which rates, in what pieces."""

    steps: int
    optimizer: OptimizerSpec
    micro_rows: int
    micro_tokens: int | None = None  # instead of micro_rows, where steps differ in how long their rows are
    use_compile: bool = False
    batch_factor: float = 1.0  # on the rates, for the size of the batch


def scheduled_rates(state: TrainState, settings: LoopSettings) -> tuple[Rates, float]:
    """Return the rates of the state's next step, and the schedule's multiplier in them."""
    spec, step, steps = settings.optimizer, state.step, settings.steps
    multiplier = rate_multiplier(spec, step, steps)
    rates = rates_at(
        spec,
        state.model.spec.n_embd,
        multiplier,
        muon_momentum(spec, step, steps),
        decay=muon_decay(spec, step, steps),
        batch_factor=settings.batch_factor,
    )
    return rates, multiplier


def training_steps(
    state: TrainState, world: World, settings: LoopSettings, stop_requested: Callable[[], bool]
) -> Iterator[StepInfo]:
    """Train to `settings.steps`, yielding after each step; the caller decides when to log, validate and save."""
    loss_function = torch.compile(loss_sum, dynamic=False) if settings.use_compile else loss_sum
    with RareCollection() as collection:
        while state.step < settings.steps:
            started = time.perf_counter()
            rates, multiplier = scheduled_rates(state, settings)
            loss, norm, tokens, should_stop = train_step(
                state,
                world,
                rates,
                micro_rows=settings.micro_rows,
                micro_tokens=settings.micro_tokens,
                grad_clip=settings.optimizer.grad_clip,
                loss_function=loss_function,
                stop_requested=stop_requested(),
            )
            collection.after_step()
            yield StepInfo(state.step, loss, norm, multiplier, time.perf_counter() - started, tokens, should_stop)
