"""The REINFORCE step: ask, reward, and make what was better than its peers likelier.

On-policy, so there is no ratio and no clipping; the baseline is the mean reward of a question's samples (Williams 1992,
with the group mean of Shao et al. 2024 but without dividing by the deviation); no KL term. The loss is divided once, by
the chosen tokens of all answers of the step on all ranks. A question whose answers were all rewarded alike teaches
nothing: it is left out, and another one is asked instead (Yu et al. 2025, "DAPO"), a few times at most.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanochat_core.distributed import World
from nanochat_core.specs import RLSpec
from nanochat_core.training.loop import LoopSettings, StepInfo, TrainState, scheduled_rates, update
from nanochat_core.training.policy import Distribution, PolicyRow, discrepancy, policy_terms
from nanochat_core.training.rollouts import Answered, Question, QuestionLoader

COUNTED = ("tokens", "reward", "samples", "cut_off", "questions", "dead", "solved", "ungradable", "stopping")
MEASURED = ("chosen", "entropy", "compared", "discrepancy")


class Answers(Protocol):
    """Who answers questions: a `Sampler`."""

    def answer(self, questions: Sequence[Question], seeds: Sequence[int], num_samples: int) -> list[Answered]:
        """Return each question with `num_samples` rewarded completions."""
        ...


def reinforce_rows(answered: Sequence[Answered], *, learn_stop: bool = True) -> tuple[list[PolicyRow], int]:
    """Return a row for each sample whose advantage is not zero, and the learned tokens of all samples.

    A row is prompt and completion; its mask is 1 on the tokens that the model itself chose, without the one that ended
    the answer where `learn_stop` is off. The advantage is the sample's reward minus the mean of its question.
    """
    rows, tokens = [], 0
    for item in answered:
        for completion, reward in zip(item.completions, item.rewards, strict=True):
            mask = list(completion.mask)
            if completion.finish_reason == "stop" and not learn_stop:
                mask[-1] = 0
            tokens += sum(mask)
            if not item.is_dead and (advantage := reward - item.mean_reward) != 0:
                before = len(item.prompt)
                drawn = [0.0] * before + list(completion.draw_logprobs) if completion.draw_logprobs else []
                rows.append(PolicyRow([*item.prompt, *completion.ids], [0] * before + mask, advantage, drawn))
    return rows, tokens


def reinforce_steps(sampler: Answers, spec: RLSpec, micro_rows: int) -> Callable[..., Iterator[StepInfo]]:
    """Return the generator of RL steps that `training.run.train` drives."""

    def steps(
        state: TrainState, world: World, settings: LoopSettings, stop_requested: Callable[[], bool]
    ) -> Iterator[StepInfo]:
        while state.step < settings.steps:
            yield _reinforce_step(state, world, settings, sampler, spec, micro_rows, stop_requested)

    return steps


def ask(loader: QuestionLoader, sampler: Answers, spec: RLSpec, world: World) -> list[Answered]:
    """Return this rank's answered questions of a step, of all rounds.

    As many are asked again as were dead on all ranks together, so that the step has at most `questions_per_step` that
    teach something, and which ones does not depend on the number of ranks.
    """
    questions, seeds = loader.next_questions()
    answered = sampler.answer(questions, seeds, spec.samples_per_question)
    fresh = answered
    for _ in range(spec.refill_rounds):
        dead = torch.tensor(sum(item.is_dead for item in fresh), device=world.device)
        missing = int(world.sum_(dead))
        if not missing:
            break
        questions, seeds = loader.more_questions(missing)
        fresh = sampler.answer(questions, seeds, spec.samples_per_question)
        answered = [*answered, *fresh]
    return answered


def _reinforce_step(
    state: TrainState,
    world: World,
    settings: LoopSettings,
    sampler: Answers,
    spec: RLSpec,
    micro_rows: int,
    stop_requested: Callable[[], bool],
) -> StepInfo:
    """Answer the step's questions, learn from the rewards, and say how it went."""
    started = time.perf_counter()
    assert isinstance(state.loader, QuestionLoader)
    answered = ask(state.loader, sampler, spec, world)
    asked_seconds = time.perf_counter() - started
    rows, own_tokens = reinforce_rows(answered, learn_stop=spec.learn_stop)
    rows.sort(key=lambda row: row.ids)  # what begins alike lies side by side, and is computed once
    numbers = _counts(answered, own_tokens, stop_requested())
    sums = world.sum_(torch.tensor(numbers, device=world.device, dtype=world.sum_dtype)).tolist()
    counts = dict(zip(COUNTED, sums, strict=True))
    distribution = Distribution(spec.temperature, spec.top_k) if spec.logprobs == "sampled" else Distribution()

    def add_gradients(at_a_time: int) -> Tensor:
        """Return this rank's share of the loss, and what it measured; the gradients are those of the loss."""
        totals = torch.zeros(1 + len(MEASURED), device=world.device, dtype=world.sum_dtype)
        for first in range(0, len(rows), at_a_time):
            terms = policy_terms(state.model, rows[first : first + at_a_time], distribution)
            loss = terms.loss / max(counts["tokens"], 1.0)
            loss.backward()
            totals += torch.stack([loss.detach(), *_measured(terms.logprobs, terms.entropies, terms.drawn)]).to(totals)
        return totals

    loss, *values = world.sum_(state.halvings.attempt(state.model, micro_rows, add_gradients)).tolist()
    rates, multiplier = scheduled_rates(state, settings)
    norm = update(state, world, loss, rates, grad_clip=settings.optimizer.grad_clip)
    tokens = int(counts["tokens"])
    state.tokens += tokens
    extra = step_metrics(counts, dict(zip(MEASURED, values, strict=True)), spec.samples_per_question)
    seconds = time.perf_counter() - started
    extra["rl/sampling_share"] = round(asked_seconds / seconds, 4)
    return StepInfo(state.step, loss, norm, multiplier, seconds, tokens, counts["stopping"] > 0, extra)


def _counts(answered: Sequence[Answered], tokens: int, is_stopping: bool) -> list[float]:
    """Return what this rank adds to the numbers named `COUNTED`."""
    rewards = [reward for item in answered for reward in item.rewards]
    reasons = [completion.finish_reason for item in answered for completion in item.completions]
    return [
        tokens,
        sum(rewards),
        len(rewards),
        reasons.count("length"),
        len(answered),
        sum(item.is_dead for item in answered),
        sum(max(item.rewards) == 1 for item in answered),
        sum(reward not in (0, 1) for reward in rewards),
        float(is_stopping),
    ]


def _measured(logprobs: Tensor, entropies: Tensor, drawn: Tensor) -> list[Tensor]:
    """Return the numbers named `MEASURED` of some chosen tokens."""
    is_known = ~drawn.isnan()
    apart = discrepancy(logprobs[is_known], drawn[is_known])
    return [logprobs.new_tensor(len(logprobs)), entropies.sum(), is_known.sum(), apart.sum()]


def step_metrics(counts: dict[str, float], measured: dict[str, float], num_samples: int) -> dict[str, float]:
    """Return what a step's line says besides the loss.

    rl/reward: mean of all samples. rl/rollout_pass_at_K: share of questions with a right one among their K samples,
    where a reward says right or wrong. rl/tokens_per_sample, rl/cut_off: their length, and the share that ended at its
    limit. rl/dead_groups: the share of questions whose samples were rewarded alike; rl/questions: all that were asked.
    Of the tokens that were learned: rl/entropy, in nats, and rl/sampling_kl, how far the distribution that was drawn
    from was from the one that learned, in nats a token.
    """
    values = {
        "rl/reward": counts["reward"] / counts["samples"],
        "rl/tokens_per_sample": counts["tokens"] / counts["samples"],
        "rl/cut_off": counts["cut_off"] / counts["samples"],
        "rl/questions": counts["questions"],
        "rl/dead_groups": counts["dead"] / counts["questions"],
    }
    if not counts["ungradable"]:
        values[f"rl/rollout_pass_at_{num_samples}"] = counts["solved"] / counts["questions"]
    if measured["chosen"]:
        values["rl/entropy"] = measured["entropy"] / measured["chosen"]
    if measured["compared"]:
        values["rl/sampling_kl"] = measured["discrepancy"] / measured["compared"]
    return values
