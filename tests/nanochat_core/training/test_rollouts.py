"""The questions of RL's steps, what rewards them, and what was gained."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.errors import DataError, SpecError
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.interface import Completion
from nanochat_core.specs import RLSpec
from nanochat_core.stages.rl import curves, paired_gain
from nanochat_core.training.finetune import rendered
from nanochat_core.training.rollouts import Question, QuestionLoader, Sampler, fitting_questions, load_reward
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model


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
    numbers = [number for step in steps for number, _ in step]
    assert set(numbers[:11]) == set(numbers[11:22]) == set(range(11))
    assert numbers[:11] != numbers[11:22]  # each epoch has an order of its own


def test_more_questions_of_a_step_are_the_next_ones_shared_by_the_ranks_and_named_with_it() -> None:
    one, two = question_loader(), [question_loader(rank, 2) for rank in range(2)]
    asked(one)
    more = one.more_questions(3)
    following = asked(one)
    for loader in two:
        asked(loader)
    shares = [loader.more_questions(3) for loader in two]
    assert sorted(seed for _, seeds in shares for seed in seeds) == more[1]
    assert len(two[0].origins()["questions"]) + len(two[1].origins()["questions"]) == 4 + 3
    assert sorted(following) == sorted(asked(two[0]) + asked(two[1]))


def test_questions_go_on_where_the_checkpoint_was_written() -> None:
    one, resumed = question_loader(), question_loader()
    for _ in range(3):
        asked(one)
    resumed.load(one.state())
    assert [asked(one) for _ in range(3)] == [asked(resumed) for _ in range(3)]


def test_a_loader_names_the_questions_of_its_last_step() -> None:
    world = World(1, 2, torch.device("cpu"))
    loader = QuestionLoader([{"number": number} for number in range(10)], per_step=4, seed=0, world=world)
    for _ in range(6):
        questions, _ = loader.next_questions()
        assert loader.origins() == {"questions": sorted(question["number"] for question in questions)}


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


def sampler_with(reward: Callable[..., Any], **changes: Any) -> Sampler:
    spec = RLSpec.model_validate(rendered({"max_new_tokens": 3, "temperature": 1.0} | changes))
    return Sampler(Engine(random_model(), TOKENIZER), TOKENIZER, spec, reward)


def question(text: str) -> Question:
    return {"messages": [{"role": "user", "content": text}], "source": "here", "meta": {}}


def raises(question: Question, completion: Completion) -> float:
    raise KeyError("answer")


@pytest.mark.parametrize(
    ("reward", "what"),
    [
        (lambda question, completion: math.nan, "gave nan"),
        (lambda question, completion: -math.inf, "gave -inf"),
        (lambda question, completion: None, "raised TypeError"),
        (raises, "raised KeyError: 'answer'"),
    ],
    ids=["nan", "inf", "none", "raises"],
)
def test_a_reward_that_is_no_finite_number_is_one_line_with_its_name(reward: Callable[..., Any], what: str) -> None:
    with pytest.raises(SpecError, match=f"The reward 'answer' {what}.* for an answer to 'Which one"):
        sampler_with(reward).answer([question("Which one?")], [1], 2)


def test_questions_that_leave_no_room_for_an_answer_are_left_out_or_refused() -> None:
    spec = RLSpec.model_validate(rendered({"max_new_tokens": 100}))
    short, long = question("Which?"), question("a" * 10_000)
    assert fitting_questions([short, long], TOKENIZER, spec, 256) == [short]
    with pytest.raises(DataError, match=r"None of the 1 questions fits: .* more than the 156 tokens"):
        fitting_questions([long], TOKENIZER, spec, 256)
    with pytest.raises(SpecError, match=r"rl.max_new_tokens 100 leaves no room for a question: .* have 100 tokens"):
        fitting_questions([short], TOKENIZER, spec, 100)


def test_an_empty_message_is_asked_and_none_at_all_is_refused_in_one_line() -> None:
    sampler = sampler_with(lambda question, completion: 1.0)
    (found,) = sampler.answer([question("")], [1], 2)
    assert found.rewards == [1.0, 1.0]
    with pytest.raises(DataError, match="A conversation needs at least one message"):
        sampler.answer([question("") | {"messages": []}], [1], 2)
