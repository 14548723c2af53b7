"""Rollouts for RL: sample answers, reward them, and the REINFORCE step on them.

On-policy, so there is no ratio and no clipping; the baseline is the mean reward of a question's samples (Williams 1992,
with the group mean of Shao et al. 2024 but without dividing by the deviation); no KL term.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanochat_core.distributed import World
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.inference.engine import Engine, Prompt
from nanochat_core.inference.interface import Completion
from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import IGNORED, loss_sum
from nanochat_core.specs import RLSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from nanochat_core.training.loop import LoopSettings, StepInfo, TrainState, scheduled_rates, update

Question = dict[str, Any]  # {"messages", "source", "meta"}: a row of the conversations
Reward = Callable[[Question, Completion], float]


def load_reward(name: str) -> Reward:
    """Return the reward registered as `name` in the entry-point group `nanochat.rewards`."""
    rewards = {entry.name: entry for entry in entry_points(group="nanochat.rewards")}
    if name not in rewards:
        raise SpecError(f"rl.reward: unknown reward {name!r}{did_you_mean(name, rewards)}.")
    return rewards[name].load()


@dataclass(frozen=True)
class Answered:
    """A question, the prompt's ids, its sampled completions and their rewards."""

    question: Question
    prompt: list[int]
    completions: list[Completion]
    rewards: list[float]

    @property
    def mean_reward(self) -> float:
        return sum(self.rewards) / len(self.rewards)


class Sampler:
    """Asks the present model questions, as the spec says, and has the answers rewarded."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, spec: RLSpec) -> None:
        self._engine, self.tokenizer, self._spec = engine, tokenizer, spec
        self._reward = load_reward(spec.reward)

    def answer(self, questions: Sequence[Question], seeds: Sequence[int], num_samples: int) -> list[Answered]:
        """Return each question with `num_samples` rewarded completions. Equal weights and seeds give equal answers."""
        spec, prompts = self._spec, [render_prompt(self.tokenizer, question) for question in questions]
        requests = [
            Prompt(
                ids=ids,
                num_samples=num_samples,
                max_new_tokens=spec.max_new_tokens,
                temperature=spec.temperature,
                top_k=spec.top_k,
                seed=seed,
            )
            for ids, seed in zip(prompts, seeds, strict=True)
        ]
        answers = self._engine.generate(requests)
        return [
            Answered(question, ids, completions, [self._reward(question, completion) for completion in completions])
            for question, ids, completions in zip(questions, prompts, answers, strict=True)
        ]


class QuestionLoader:
    """Questions for each step, in a seeded order, shared by the ranks. Its state is one number."""

    def __init__(self, questions: list[Question], *, per_step: int, seed: int, world: World) -> None:
        if per_step % world.size:
            raise SpecError(
                f"rl.questions_per_step {per_step} cannot be shared by {world.size} ranks. Choose a multiple."
            )
        self._questions, self._per_step, self._seed, self._world = questions, per_step, seed, world
        self._step = 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._questions) // self._per_step)

    def next_questions(self) -> tuple[list[Question], list[int]]:
        """Return this rank's questions of the next step, and a seed for each."""
        epoch, position = divmod(self._step, self.steps_per_epoch)
        order = self._order(epoch)
        first = self._seed * 1_000_003 + self._step * self._per_step + self._world.rank
        seeds = [first + number for number in range(0, self._per_step, self._world.size)]
        self._step += 1
        return [self._questions[order[number]] for number in self._numbers(position)], seeds

    def batch(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("RL makes its own batches from the model's answers")

    def origins(self) -> dict[str, list[int]]:
        """Return which of the training questions this rank had in the step before."""
        epoch, position = divmod(self._step - 1, self.steps_per_epoch)
        return {"questions": sorted(self._order(epoch)[number] for number in self._numbers(position))}

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed + epoch)
        return torch.randperm(len(self._questions), generator=generator).tolist()

    def _numbers(self, position: int) -> list[int]:
        """Return this rank's places in the order of an epoch; where there are few questions, one comes again."""
        own = range(position * self._per_step + self._world.rank, (position + 1) * self._per_step, self._world.size)
        return [number % len(self._questions) for number in own]

    def state(self) -> dict[str, Tensor]:
        return {"questions.step": torch.tensor([self._step])}

    def load(self, state: dict[str, Tensor]) -> None:
        self._step = int(state["questions.step"])


def reinforce_rows(answered: Sequence[Answered]) -> tuple[list[tuple[list[int], list[int], float]], int]:
    """Return (ids, mask, advantage) for each sample whose advantage is not zero, and the chosen tokens of all samples.

    `ids` is prompt and completion; `mask` is 1 on the tokens that the model itself chose. The advantage is the sample's
    reward minus the mean of its question: samples that are all alike teach nothing and are left out.
    """
    rows, chosen_tokens = [], 0
    for item in answered:
        for completion, reward in zip(item.completions, item.rewards, strict=True):
            chosen_tokens += sum(completion.mask)
            if (advantage := reward - item.mean_reward) != 0:
                mask = [0] * len(item.prompt) + list(completion.mask)
                rows.append(([*item.prompt, *completion.ids], mask, advantage))
    return rows, chosen_tokens


def _filled_up(rows: list[list[int]], device: torch.device) -> Tensor:
    """Return the rows (B, T), int64, with zeros behind the shorter ones."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)


def policy_loss(model: GPT, rows: list[tuple[list[int], list[int], float]]) -> Tensor:
    """Return Σ −advantage · log p(token) over the chosen tokens of the rows, a float32 scalar."""
    idx = _filled_up([ids for ids, _, _ in rows], model.device)
    mask = _filled_up([mask for _, mask, _ in rows], model.device)
    advantages = torch.tensor([advantage for _, _, advantage in rows], device=model.device)
    targets = torch.where(mask[:, 1:] == 1, idx[:, 1:], IGNORED)
    return loss_sum(model, idx[:, :-1], targets, advantages)


def reinforce_steps(sampler: Sampler, spec: RLSpec, micro_rows: int) -> Callable[..., Iterator[StepInfo]]:
    """Return the generator of RL steps that `training.run.train` drives."""

    def steps(
        state: TrainState, world: World, settings: LoopSettings, stop_requested: Callable[[], bool]
    ) -> Iterator[StepInfo]:
        while state.step < settings.steps:
            yield _reinforce_step(
                state, world, settings, sampler, spec.samples_per_question, micro_rows, stop_requested()
            )

    return steps


def _reinforce_step(
    state: TrainState,
    world: World,
    settings: LoopSettings,
    sampler: Sampler,
    num_samples: int,
    micro_rows: int,
    stop_requested: bool,
) -> StepInfo:
    """Answer the step's questions, learn from the rewards, and say how it went."""
    started = time.perf_counter()
    questions, seeds = state.loader.next_questions()
    answered = sampler.answer(questions, seeds, num_samples)
    rows, chosen_tokens = reinforce_rows(answered)
    rewards = sum(sum(item.rewards) for item in answered)
    counts = [chosen_tokens, rewards, len(questions) * num_samples, float(stop_requested)]
    numbers = world.sum_(torch.tensor(counts, device=world.device, dtype=world.sum_dtype))
    tokens, reward_sum, samples, stopping = numbers.tolist()
    rows.sort(key=lambda row: len(row[0]))

    def add_gradients(at_a_time: int) -> Tensor:
        """Return this rank's share of the loss; the gradients are those of the same."""
        total = torch.zeros((), device=world.device, dtype=world.sum_dtype)
        for first in range(0, len(rows), at_a_time):
            loss = policy_loss(state.model, rows[first : first + at_a_time]) / max(tokens, 1.0)
            loss.backward()
            total += loss.detach()
        return total

    total = world.sum_(state.halvings.attempt(state.model, micro_rows, add_gradients)).item()
    rates, multiplier = scheduled_rates(state, settings)
    norm = update(state, world, total, rates, grad_clip=settings.optimizer.grad_clip)
    state.tokens += int(tokens)
    extra = {"rl/reward": reward_sum / samples, "rl/tokens_per_sample": tokens / samples}
    seconds = time.perf_counter() - started
    return StepInfo(state.step, total, norm, multiplier, seconds, int(tokens), stopping > 0, extra)
