"""REINFORCE: advantages, what is asked again, a bandit whose optimum is known, and what a step says of itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.errors import NonFiniteLoss
from nanochat_core.inference.interface import Completion
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import OptimizerSpec, RLSpec
from nanochat_core.training.finetune import rendered
from nanochat_core.training.loop import LoopSettings, StepInfo, TrainState
from nanochat_core.training.policy import Distribution, PolicyRow, PolicyTerms, policy_terms
from nanochat_core.training.reinforce import ask, reinforce_rows, reinforce_steps
from nanochat_core.training.rollouts import Answered, Question, QuestionLoader, Sampler, rollout_engine
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model

CPU = World(0, 1, torch.device("cpu"))


def answered(rewards: list[float]) -> Answered:
    completions = [
        Completion(ids=(5, 6, 7 + place), mask=(1, 0, 1), parts=(), finish_reason="stop")
        for place in range(len(rewards))
    ]
    return Answered({"messages": []}, [1, 2], completions, rewards)


def rl_spec(**changes: Any) -> RLSpec:
    return RLSpec.model_validate(rendered({"samples_per_question": 2} | changes))


def test_the_advantage_is_the_reward_less_the_question_s_mean_and_alike_samples_teach_nothing() -> None:
    rows, chosen = reinforce_rows([answered([1.0, 0.0, 0.0, 1.0]), answered([1.0, 1.0]), answered([0.1] * 3)])
    assert [row.advantage for row in rows] == [0.5, -0.5, -0.5, 0.5]
    assert rows[1][:2] == ([1, 2, 5, 6, 8], [0, 0, 1, 0, 1])
    assert chosen == 2 * 9


def test_the_token_that_ends_an_answer_is_learned_unless_that_is_turned_off() -> None:
    stopped = answered([1.0, 0.0])
    cut = replace(stopped, completions=[replace(item, finish_reason="length") for item in stopped.completions])
    for item, learn_stop, mask in ((stopped, True, [1, 0, 1]), (stopped, False, [1, 0, 0]), (cut, False, [1, 0, 1])):
        rows, chosen = reinforce_rows([item], learn_stop=learn_stop)
        assert [row.mask[2:] for row in rows] == [mask] * 2
        assert chosen == 2 * sum(mask)


class Asked:
    """A sampler to which questions 0 to 5 of 12 are dead, and which notes what it was asked."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []

    def answer(self, questions: Sequence[Question], seeds: Sequence[int], num_samples: int) -> list[Answered]:
        numbers = [question["number"] for question in questions]
        self.rounds.append(numbers)
        return [answered([1.0, 1.0] if number < 6 else [1.0, 0.0]) for number in numbers]


@pytest.mark.parametrize("refill_rounds", [0, 1, 5])
def test_as_many_questions_are_asked_again_as_taught_nothing_a_few_times_at_most(refill_rounds: int) -> None:
    loader = QuestionLoader([{"number": number} for number in range(12)], per_step=4, seed=1, world=CPU)
    sampler = Asked()
    found = ask(loader, sampler, rl_spec(refill_rounds=refill_rounds), CPU)
    dead = [sum(number < 6 for number in numbers) for numbers in sampler.rounds]
    assert [len(numbers) for numbers in sampler.rounds] == [4, *dead[:-1]]
    assert len(sampler.rounds) == 1 + refill_rounds or (len(sampler.rounds) <= 1 + refill_rounds and dead[-1] == 0)
    assert dead[0] > 0  # or the test shows nothing
    assert sum(not item.is_dead for item in found) == 4 - dead[-1]


def test_rewards_that_are_equal_in_all_steps_leave_the_gradient_zero_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = taught(lambda question, completion: 0.5, 2, monkeypatch, refill_rounds=1)
    for info in steps:
        assert info.loss == 0 and info.grad_norm == 0
        assert info.extra["rl/dead_groups"] == 1 and info.extra["rl/questions"] == 8
        assert not any(math.isnan(value) for value in info.extra.values())


class OneAnswer:
    """A sampler that gives every question the same two answers, of which one is right."""

    def answer(self, questions: Sequence[Question], seeds: Sequence[int], num_samples: int) -> list[Answered]:
        return [answered([1.0, 0.0]) for _ in questions]


def test_a_loss_that_is_no_number_stops_before_the_update() -> None:
    model, world = random_model(), World(0, 1, torch.device("cpu"))
    loader = QuestionLoader([{"messages": []}], per_step=1, seed=0, world=world)
    state = TrainState(model, MuonAdamW(model), loader)
    spec = rl_spec()
    settings = LoopSettings(steps=2, optimizer=OptimizerSpec(grad_clip=None), micro_rows=2)
    steps = reinforce_steps(OneAnswer(), spec, 2)(state, world, settings, lambda: False)
    assert next(steps).step == 1
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    before = model.wte.weight.detach().clone()
    with pytest.raises(NonFiniteLoss, match=r"The loss of step 2 is nan.* made from the documents questions \(0\)"):
        next(steps)
    assert state.step == 1
    assert torch.equal(model.wte.weight, before)


def test_where_memory_ends_the_samples_are_learned_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_device(model: GPT, rows: Sequence[PolicyRow], distribution: Distribution) -> PolicyTerms:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no room")
        return policy_terms(model, rows, distribution)

    monkeypatch.setattr("nanochat_core.training.reinforce.policy_terms", small_device)
    model, world = random_model(), World(0, 1, torch.device("cpu"))
    state = TrainState(model, MuonAdamW(model), QuestionLoader([{"messages": []}], per_step=1, seed=0, world=world))
    spec = rl_spec()
    settings = LoopSettings(steps=1, optimizer=OptimizerSpec(grad_clip=None), micro_rows=4)
    (info,) = reinforce_steps(OneAnswer(), spec, 4)(state, world, settings, lambda: False)
    assert info.loss == pytest.approx(0.0, abs=3) and state.halvings.count == 2


def taught(reward: Callable[..., float], steps: int, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[StepInfo]:
    """Train a model on one question by its own answers of one token; return the steps."""
    model = random_model()
    monkeypatch.setattr("nanochat_core.training.rollouts.load_reward", lambda name: reward)
    spec = rl_spec(questions_per_step=4, samples_per_question=8, max_new_tokens=1, **changes)
    question = {"messages": [{"role": "user", "content": "Which?"}], "source": "bandit", "meta": {}}
    state = TrainState(model, MuonAdamW(model), QuestionLoader([question], per_step=4, seed=0, world=CPU))
    sampler = Sampler(rollout_engine(model, TOKENIZER, spec, CPU, tool=None), TOKENIZER, spec)
    settings = LoopSettings(steps=steps, optimizer=spec.optimizer, micro_rows=64)
    return list(reinforce_steps(sampler, spec, 64)(state, CPU, settings, lambda: False))


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7, "top_k": None}, {"logprobs": "full"}], ids=str)
def test_a_bandit_of_four_arms_ends_at_the_best_one(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def pays(question: Question, completion: Completion) -> float:
        return (0.1, 0.3, 1.0, 0.6)[completion.ids[0] % 4]

    optimizer = OptimizerSpec(lr_scale=0.2, warmdown_ratio=0, grad_clip=None)
    rewards = [info.extra["rl/reward"] for info in taught(pays, 20, monkeypatch, optimizer=optimizer, **how)]
    assert rewards[0] < 0.8 and sum(rewards[-4:]) / 4 > 0.95


def test_a_step_says_how_it_went_and_that_both_numerics_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_even(question: Question, completion: Completion) -> float:
        assert question["meta"]["compare"] == "numbers"
        return float(completion.ids[0] % 2 == 0)

    first = taught(is_even, 1, monkeypatch, temperature=0.8, top_k=7)[0].extra
    assert 0 < first["rl/reward"] < first["rl/rollout_pass_at_8"] <= 1
    assert first["rl/tokens_per_sample"] == 1 and first["rl/cut_off"] > 0.5
    assert 0 < first["rl/entropy"] < 1.95  # ln 7
    assert 0 <= first["rl/dead_groups"] < 1 and first["rl/questions"] >= 4
    assert 0 <= first["rl/sampling_kl"] < 1e-9
    full = taught(is_even, 1, monkeypatch, temperature=0.8, top_k=7, logprobs="full")[0].extra
    assert full["rl/sampling_kl"] > 1e-2  # what is learned is not what was drawn from
    assert full["rl/reward"] == first["rl/reward"]


def test_of_a_prompt_that_leaves_no_room_the_end_that_was_read_is_learned() -> None:
    model, spec = random_model(), rl_spec(max_new_tokens=4)
    engine = rollout_engine(model, TOKENIZER, spec, CPU, tool=None)
    sampler = Sampler(engine, TOKENIZER, spec, lambda question, completion: float(completion.ids[0]))
    question = {"messages": [{"role": "user", "content": "Which? " * 100}], "source": "long", "meta": {}}
    (answered,) = sampler.answer([question], [1], 4)
    assert len(answered.prompt) == engine.max_length - 4
    rows, _ = reinforce_rows([answered])
    terms = policy_terms(model, rows, Distribution(spec.temperature, spec.top_k))
    assert float((terms.logprobs - terms.drawn).abs().max()) < 1e-4
