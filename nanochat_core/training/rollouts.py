"""Rollouts for RL: the questions of a step, answers sampled for all of them at once, and their rewards."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_core.artifacts import StageFolder
from nanochat_core.data.shards import read_columns
from nanochat_core.distributed import World
from nanochat_core.errors import DataError, NanochatError, SpecError, did_you_mean
from nanochat_core.inference.engine import Engine, EngineLimits, Prompt
from nanochat_core.inference.interface import Completion
from nanochat_core.inference.kv_memory import PAGE_TOKENS
from nanochat_core.inference.tool_use import Tool
from nanochat_core.model.accounting import kv_width
from nanochat_core.model.gpt import GPT
from nanochat_core.preference_specs import SampledPairsSpec
from nanochat_core.specs import RLSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from nanochat_core.training.micro_batch import device_memory

ROWS = 256  # answers that a device goes on with at a time, at most
KEYS_SHARE = 8  # one part in so many of the device's memory may hold their keys and values
Question = dict[str, Any]  # {"messages", "source", "meta"}: a row of the conversations
Reward = Callable[[Question, Completion], float]


def load_reward(name: str) -> Reward:
    """Return the reward registered as `name` in the entry-point group `nanochat.rewards`."""
    rewards = {entry.name: entry for entry in entry_points(group="nanochat.rewards")}
    if name not in rewards:
        raise SpecError(f"reward: unknown reward {name!r}{did_you_mean(name, rewards)}.")
    return rewards[name].load()


def reward_of_stage(name: str, folder: StageFolder, device: torch.device) -> Reward:
    """Return the same for a stage; a reward with a model of its own (`of_stage`) reads that from the stage's inputs."""
    found = load_reward(name)
    of_stage = getattr(found, "of_stage", None)
    return of_stage(folder, device) if of_stage else found


@dataclass(frozen=True)
class Answered:
    """A question, the prompt's ids, its sampled completions and their rewards.

    Of a prompt that leaves no room for an answer, `prompt` is the end that was read.
    """

    question: Question
    prompt: list[int]
    completions: list[Completion]
    rewards: list[float]

    @property
    def mean_reward(self) -> float:
        return sum(self.rewards) / len(self.rewards)

    @property
    def is_dead(self) -> bool:
        """Whether all rewards are equal: nothing can be learned from it."""
        return min(self.rewards) == max(self.rewards)


def read_questions(path: Path) -> list[Question]:
    """Return the rows of a conversations file with `messages` and `meta` decoded; raises DataError if it has none."""
    rows = read_columns(path, ["messages", "source", "meta"]).to_pylist()
    return [row | {"messages": json.loads(row["messages"]), "meta": json.loads(row["meta"])} for row in rows]


def rollout_engine(model: GPT, tokenizer: Tokenizer, spec: RLSpec, world: World, *, tool: Tool | None) -> Engine:
    """Return an engine that answers all questions of a step at once, with the weights that are being trained."""
    own = -(-spec.questions_per_step // world.size) * spec.samples_per_question
    return engine_for(model, tokenizer, own, world, tool=tool)


def engine_for(model: GPT, tokenizer: Tokenizer, answers: int, world: World, *, tool: Tool | None) -> Engine:
    """Return an engine for so many answers at once, or as many of them as the device goes on with at a time."""
    rows = min(answers, ROWS)
    key_bytes = 2 * len(model.blocks) * kv_width(model.spec) * model.compute_dtype.itemsize
    # The size of the device, not what is free at the moment: a resumed run has to have the same.
    kv_tokens = max(PAGE_TOKENS, device_memory(world.device) // KEYS_SHARE // key_bytes)
    limits = EngineLimits(rows=rows, kv_tokens=kv_tokens, step_tokens=max(512, 2 * rows))
    return Engine(model, tokenizer, limits=limits, tool=tool, shares_weights=True)


def fitting_questions(
    questions: Sequence[Question], tokenizer: Tokenizer, spec: RLSpec, max_length: int
) -> list[Question]:
    """Return the questions that leave room for an answer in a context of `max_length` tokens.

    Raises SpecError where no question at all could, DataError where none of these does.
    """
    room = max_length - spec.max_new_tokens
    if room < 1:
        raise SpecError(
            f"rl.max_new_tokens {spec.max_new_tokens} leaves no room for a question: question and answer have "
            f"{max_length} tokens with this model. Choose fewer than {max_length}."
        )
    kept = [question for question in questions if len(render_prompt(tokenizer, question)) <= room]
    if questions and not kept:
        raise DataError(
            f"None of the {len(questions)} questions fits: they have more than the {room} tokens that "
            f"rl.max_new_tokens {spec.max_new_tokens} leaves of {max_length}. Choose fewer, or shorter questions."
        )
    return kept


class Sampler:
    """Asks the present model questions, as the spec says, and has the answers rewarded."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, spec: RLSpec | SampledPairsSpec, reward: Reward | None = None
    ) -> None:
        self._engine, self.tokenizer, self._spec = engine, tokenizer, spec
        self._reward = reward or load_reward(spec.reward)
        self._rewards_of: Callable[[Question, Sequence[Completion]], list[float]] | None = getattr(
            self._reward, "rewards", None
        )

    def answer(self, questions: Sequence[Question], seeds: Sequence[int], num_samples: int) -> list[Answered]:
        """Return each question with `num_samples` rewarded completions. Equal weights and seeds give equal answers."""
        room = max(1, self._engine.max_length - self._spec.max_new_tokens)  # the engine reads the end of a longer one
        prompts = [render_prompt(self.tokenizer, question)[-room:] for question in questions]
        requests = [self._prompt(ids, seed, num_samples) for ids, seed in zip(prompts, seeds, strict=True)]
        answers = self._engine.generate(requests)
        return [
            Answered(question, ids, completions, self.rewards(question, completions))
            for question, ids, completions in zip(questions, prompts, answers, strict=True)
        ]

    def _prompt(self, ids: list[int], seed: int, num_samples: int) -> Prompt:
        spec = self._spec
        return Prompt(
            ids=ids,
            num_samples=num_samples,
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            top_k=spec.top_k,
            seed=seed,
            draw_logprobs=True,
        )

    def rewards(self, question: Question, completions: Sequence[Completion]) -> list[float]:
        """Return what each answer to the question earns."""
        if self._spec.compare_numbers:
            question = question | {"meta": question["meta"] | {"compare": "numbers"}}
        try:
            if self._rewards_of:  # a model's, which reads all answers to a question at once
                found = self._rewards_of(question, completions)
            else:
                found = [float(self._reward(question, completion)) for completion in completions]
        except NanochatError:
            raise
        except Exception as error:
            raise self._not_rewarded(f"raised {type(error).__name__}: {error}", question) from error
        if unfit := [reward for reward in found if not math.isfinite(reward)]:
            raise self._not_rewarded(f"gave {unfit[0]}", question)
        return found

    def _not_rewarded(self, what: str, question: Question) -> SpecError:
        """Return the error for an answer without a reward."""
        asked = next((str(m["content"]) for m in question["messages"] if m.get("role") == "user"), "")
        return SpecError(
            f"The reward {self._spec.reward!r} {what} for an answer to {asked[:80]!r}. A reward gives each answer a "
            "finite number: correct it, or choose another."
        )


class QuestionLoader:
    """Questions for each step, shared by the ranks: each epoch all of them, in a seeded order of its own.

    Its state is one number: how many have been asked for, by all ranks.
    """

    def __init__(self, questions: list[Question], *, per_step: int, seed: int, world: World) -> None:
        if per_step % world.size:
            raise SpecError(
                f"rl.questions_per_step {per_step} cannot be shared by {world.size} ranks. Choose a multiple."
            )
        self._questions, self._per_step, self._seed, self._world = questions, per_step, seed, world
        self._asked = 0
        self._orders: dict[int, list[int]] = {}
        self._numbers: list[int] = []

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._questions) // self._per_step)

    def next_questions(self) -> tuple[list[Question], list[int]]:
        """Return this rank's questions of the next step, and a seed for each."""
        self._numbers = []
        return self.more_questions(self._per_step)

    def more_questions(self, count: int) -> tuple[list[Question], list[int]]:
        """Return this rank's share of the next `count` questions, of the same step, and a seed for each."""
        places = [place for place in range(self._asked, self._asked + count) if self._is_own(place)]
        self._asked += count
        numbers = [self._number(place) for place in places]
        self._numbers += numbers
        return [self._questions[number] for number in numbers], [self._seed * 1_000_003 + place for place in places]

    def batch(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("RL makes its own batches from the model's answers")

    def origins(self) -> dict[str, list[int]]:
        """Return which of the training questions this rank had in the step before."""
        return {"questions": sorted(self._numbers)}

    def _is_own(self, place: int) -> bool:
        return place % self._world.size == self._world.rank

    def _number(self, place: int) -> int:
        """Return the question at a place of all epochs' orders, one after the other."""
        epoch, number = divmod(place, len(self._questions))
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self._seed + epoch)
            self._orders = {epoch: torch.randperm(len(self._questions), generator=generator).tolist()}
        return self._orders[epoch][number]

    def state(self) -> dict[str, Tensor]:
        return {"questions.asked": torch.tensor([self._asked])}

    def load(self, state: dict[str, Tensor]) -> None:
        self._asked = int(state["questions.asked"])
