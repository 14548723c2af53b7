"""REINFORCE: advantages, and a gradient that is the obvious one."""

import itertools

import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.errors import NonFiniteLoss, SpecError
from nanochat_core.inference.interface import Completion
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import OptimizerSpec, RLSpec
from nanochat_core.stages.rl import curves, paired_gain
from nanochat_core.training.finetune import rendered
from nanochat_core.training.loop import LoopSettings, TrainState
from nanochat_core.training.rollouts import (
    Answered,
    Question,
    QuestionLoader,
    load_reward,
    policy_loss,
    reinforce_rows,
    reinforce_steps,
)
from tests.nanochat_core.inference.test_engine import random_model


def answered(rewards: list[float]) -> Answered:
    completions = [
        Completion(ids=(5, 6, 7 + place), mask=(1, 0, 1), parts=(), finish_reason="stop")
        for place in range(len(rewards))
    ]
    return Answered({"messages": []}, [1, 2], completions, rewards)


def test_the_advantage_is_the_reward_less_the_question_s_mean_and_alike_samples_teach_nothing() -> None:
    rows, chosen = reinforce_rows([answered([1.0, 0.0, 0.0, 1.0]), answered([1.0, 1.0])])
    assert [advantage for _, _, advantage in rows] == [0.5, -0.5, -0.5, 0.5]
    assert rows[1][:2] == ([1, 2, 5, 6, 8], [0, 0, 1, 0, 1])
    assert chosen == 2 * 6


def slow_policy_loss(model: GPT, rows: list[tuple[list[int], list[int], float]]) -> torch.Tensor:
    total = torch.zeros(())
    for ids, mask, advantage in rows:
        for place in range(1, len(ids)):
            if mask[place]:
                logits = model(torch.tensor([ids[:place]]))[0, -1]
                total = total - advantage * torch.log_softmax(logits, -1)[ids[place]]
    return total


def test_the_loss_and_its_gradient_are_those_of_the_obvious_sum() -> None:
    rows = [([1, 2, 5, 6, 7], [0, 0, 1, 0, 1], 0.5), ([1, 9, 3], [0, 0, 1], -0.25)]
    gradients = []
    for loss_of in (policy_loss, slow_policy_loss):
        model = random_model()
        loss = loss_of(model, rows)
        loss.backward()
        gradients.append((loss.item(), [parameter.grad for parameter in model.parameters()]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for ours, slow in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6)


def question_loader(rank: int = 0, size: int = 1) -> QuestionLoader:
    questions = [{"messages": [], "meta": {"number": number}} for number in range(11)]
    return QuestionLoader(questions, per_step=4, seed=3, world=World(rank, size, torch.device("cpu")))


def asked(loader: QuestionLoader) -> list[tuple[int, int]]:
    questions, seeds = loader.next_questions()
    return [(question["meta"]["number"], seed) for question, seed in zip(questions, seeds, strict=True)]


def test_ranks_share_the_questions_of_a_step_and_no_seed_comes_twice_in_any_epoch() -> None:
    one, two = question_loader(), [question_loader(rank, 2) for rank in range(2)]
    steps = [asked(one) for _ in range(6)]
    assert [sorted(step) for step in steps] == [sorted(asked(two[0]) + asked(two[1])) for _ in steps]
    assert len({seed for step in steps for _, seed in step}) == 6 * 4
    for epoch in (steps[:2], steps[2:4], steps[4:]):
        assert len({number for step in epoch for number, _ in step}) == 8
    assert len({tuple(number for number, _ in steps[first]) for first in (0, 2, 4)}) == 3  # each epoch's own order


def test_questions_go_on_where_the_checkpoint_was_written() -> None:
    one, resumed = question_loader(), question_loader()
    for _ in range(3):
        asked(one)
    resumed.load(one.state())
    assert [asked(one) for _ in range(3)] == [asked(resumed) for _ in range(3)]


class OneAnswer:
    """A sampler that gives every question the same two answers, of which one is right."""

    def answer(self, questions: list[Question], seeds: list[int], num_samples: int) -> list[Answered]:
        return [answered([1.0, 0.0]) for _ in questions]


def test_a_loss_that_is_no_number_stops_before_the_update() -> None:
    model, world = random_model(), World(0, 1, torch.device("cpu"))
    loader = QuestionLoader([{"messages": []}], per_step=1, seed=0, world=world)
    state = TrainState(model, MuonAdamW(model), loader)
    spec = RLSpec.model_validate(rendered({"samples_per_question": 2}))
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


def test_a_loader_names_the_questions_of_its_last_step() -> None:
    world = World(1, 2, torch.device("cpu"))
    loader = QuestionLoader([{"number": number} for number in range(10)], per_step=4, seed=0, world=world)
    for _ in range(6):
        questions, _ = loader.next_questions()
        assert loader.origins() == {"questions": sorted(question["number"] for question in questions)}


def test_where_memory_ends_the_samples_are_learned_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_device(model: GPT, rows: list[tuple[list[int], list[int], float]]) -> torch.Tensor:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no room")
        return policy_loss(model, rows)

    monkeypatch.setattr("nanochat_core.training.rollouts.policy_loss", small_device)
    model, world = random_model(), World(0, 1, torch.device("cpu"))
    state = TrainState(model, MuonAdamW(model), QuestionLoader([{"messages": []}], per_step=1, seed=0, world=world))
    spec = RLSpec.model_validate(rendered({"samples_per_question": 2}))
    settings = LoopSettings(steps=1, optimizer=OptimizerSpec(grad_clip=None), micro_rows=4)
    (info,) = reinforce_steps(OneAnswer(), spec, 4)(state, world, settings, lambda: False)
    assert info.loss == pytest.approx(0.0, abs=3) and state.halvings.count == 2


def test_an_unknown_reward_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'answer'\?"):
        load_reward("anser")


def test_the_gain_is_that_of_pairs_with_its_interval() -> None:
    before = [{"rewards": [0.0, 0.0]}, {"rewards": [1.0, 0.0]}, {"rewards": [1.0, 1.0]}, {"rewards": [0.0, 1.0]}]
    after = [{"rewards": [1.0, 1.0]}, {"rewards": [1.0, 0.0]}, {"rewards": [1.0, 1.0]}, {"rewards": [1.0, 1.0]}]
    mean, low, high = paired_gain(before, after)
    assert mean == pytest.approx(0.375)
    assert high - low == pytest.approx(2 * 1.96 * 0.4787136 / 2, rel=1e-5)


def test_pass_at_k_is_what_drawing_k_of_the_answers_gives_and_is_left_out_for_other_rewards() -> None:
    records = [{"rewards": [float(place < right) for place in range(6)]} for right in (0, 1, 3, 6)]
    found = curves(records)
    assert list(found) == ["rl/held_out_reward", *(f"rl/pass_at_{k}" for k in (1, 2, 4, 6))]
    for k in (1, 2, 4, 6):
        drawn = [[any(some) for some in itertools.combinations(record["rewards"], k)] for record in records]
        assert found[f"rl/pass_at_{k}"] == pytest.approx(sum(sum(row) / len(row) for row in drawn) / len(records))
    assert found["rl/pass_at_1"] == pytest.approx(found["rl/held_out_reward"])
    assert list(curves([*records, {"rewards": [0.5] * 6}])) == ["rl/held_out_reward"]
