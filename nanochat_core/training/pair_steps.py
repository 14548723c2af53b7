"""Training steps on pairs of answers: DPO and the reward model differ only in how an answer is scored.

Both learn the model of Bradley and Terry (1952): the chance that the chosen answer is preferred is σ(m), with the
margin m = score(chosen) − score(rejected), and the loss is −log σ(m), on average over the pairs of a step on all ranks.
Its slope is −σ(−m) in the chosen score and σ(−m) in the rejected one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nanochat_core.data.preference_loader import PairBatch, PairLoader, PreferencePairs
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.training.loop import LoopSettings, StepInfo, TrainState, scheduled_rates, update


@dataclass(frozen=True)
class Scored:
    """The scores of a batch's rows, (2n,), without a gradient: the chosen answers first.

    `weighted` takes a slope for each row, (2n,), and returns a scalar whose gradient is Σ slope · ∇score.
    """

    scores: Tensor
    weighted: Callable[[Tensor], Tensor]


Scorer = Callable[[GPT, PairBatch], Scored]


def bradley_terry(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses (n,) of pairs with these scores (2n,), and their slopes (2n,) in the scores.

    >>> losses, slopes = bradley_terry(torch.tensor([0.0, 2.0, 0.0, 1.0]))
    >>> [round(x, 4) for x in [*losses.tolist(), *slopes.tolist()]]
    [0.6931, 0.3133, -0.5, -0.2689, 0.5, 0.2689]
    """
    chosen, rejected = scores.chunk(2)
    margins = chosen - rejected
    wrong = torch.sigmoid(-margins)
    return softplus(-margins), torch.cat([-wrong, wrong])


def pair_facts(scores: Tensor) -> Tensor:
    """Return (6, n) of pairs with these scores (2n,).

    That is: loss, whether it is ranked right (½ where equal), margin, its square, and both scores.
    """
    losses, _ = bradley_terry(scores)
    chosen, rejected = scores.chunk(2)
    margins = chosen - rejected
    return torch.stack([losses, (margins.sign() + 1) / 2, margins, margins.square(), chosen, rejected])


def described(sums: list[float], pairs: float, split: str) -> dict[str, float]:
    """Return the metrics of so many pairs from the sums of their facts, named after the split ("train", "val")."""
    loss, right, margin, square, chosen, rejected = (value / max(pairs, 1.0) for value in sums)
    deviation = max(0.0, square - margin * margin) ** 0.5
    return {
        f"{split}/loss": loss,
        f"{split}/accuracy": right,
        f"{split}/margin": margin,
        f"{split}/margin_error": deviation / max(pairs - 1.0, 1.0) ** 0.5,
        f"{split}/chosen_reward": chosen,
        f"{split}/rejected_reward": rejected,
    }


def pair_steps(scorer: Scorer, micro_pairs: int) -> Callable[..., Iterator[StepInfo]]:
    """Return the generator of steps that `training.run.train` drives, so many pairs through the model at a time."""

    def steps(
        state: TrainState, world: World, settings: LoopSettings, stop_requested: Callable[[], bool]
    ) -> Iterator[StepInfo]:
        while state.step < settings.steps:
            yield _pair_step(state, world, settings, scorer, micro_pairs, stop_requested())

    return steps


def _pair_step(
    state: TrainState, world: World, settings: LoopSettings, scorer: Scorer, micro_pairs: int, stop_requested: bool
) -> StepInfo:
    """Learn from the step's pairs, and say how they were ranked before."""
    started = time.perf_counter()
    loader = state.loader
    assert isinstance(loader, PairLoader)
    own, count = loader.next_pairs()

    def add_gradients(at_a_time: int) -> Tensor:
        """Return the sums of this rank's facts, and its tokens; the gradients are those of its share of the loss."""
        sums = torch.zeros(7, dtype=world.sum_dtype, device=world.device)
        for numbers in loader.pairs.batches(own, at_a_time):
            batch = loader.pairs.batch(numbers)
            scored = scorer(state.model, batch.to(world.device))
            _, slopes = bradley_terry(scored.scores)
            scored.weighted(slopes / count).backward()
            sums[:6] += pair_facts(scored.scores).sum(dim=1, dtype=world.sum_dtype)
            sums[6] += batch.tokens
        return sums

    sums = state.halvings.attempt(state.model, micro_pairs, add_gradients)
    *facts, tokens, stopping = world.sum_(torch.cat([sums, sums.new_tensor([float(stop_requested)])])).tolist()
    values = described(facts, count, "train")
    loss = values.pop("train/loss")
    values.pop("train/margin_error")
    rates, multiplier = scheduled_rates(state, settings)
    norm = update(state, world, loss, rates, grad_clip=settings.optimizer.grad_clip)
    state.tokens += int(tokens)
    seconds = time.perf_counter() - started
    return StepInfo(state.step, loss, norm, multiplier, seconds, int(tokens), stopping > 0, values)


@torch.no_grad()
def all_scores(
    model: GPT,
    pairs: PreferencePairs,
    scorer: Scorer,
    world: World,
    at_a_time: int,
    note: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the scores (2, pairs of the file), in `sum_dtype`, on every rank; the ranks share the work.

    Of pairs that do not fit they are 0. `note` is told now and then how many of its own pairs this rank has done.
    """
    found = torch.zeros(2, len(pairs), dtype=world.sum_dtype, device=world.device)
    done = 0
    for numbers in pairs.batches(pairs.fitting, at_a_time)[world.rank :: world.size]:
        batch = pairs.batch(numbers).to(world.device)
        found[:, batch.numbers] = scorer(model, batch).scores.view(2, -1).to(world.sum_dtype)
        done += len(numbers)
        note(done)
    return world.sum_(found)


def held_out_facts(
    model: GPT, pairs: PreferencePairs, scorer: Scorer, world: World, at_a_time: int
) -> dict[str, float]:
    """Return how the model ranks the held-out pairs, the same on every rank."""
    scores = all_scores(model, pairs, scorer, world, at_a_time)[:, torch.from_numpy(pairs.fitting).to(world.device)]
    return described(pair_facts(scores.flatten()).sum(dim=1).tolist(), len(pairs.fitting), "val")
