"""Arithmetic: right, varied, and with operands of testing that training never saw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.calculator import calculate
from tasks_eval.task import Split
from tasks_eval.tasks.local_arithmetic import PHRASINGS, arithmetic_example, evaluate, join, operands_key


@given(st.integers(0, 10**6), st.sampled_from(["train", "test"]))
def test_the_answer_is_what_the_calculator_says(index: int, split: Split) -> None:
    text, call, output, final = arithmetic_example(index, split)["messages"][1]["content"]
    assert [part["type"] for part in (text, call, output, final)] == ["text", "python", "python_output", "text"]
    assert calculate(call["text"]) == output["text"]
    assert final["text"] == f"{output['text']}\n#### {output['text']}"
    assert text["text"] == f"{call['text']} = "


@given(st.lists(st.integers(0, 100), min_size=2, max_size=5), st.data())
def test_the_value_is_the_calculators(operands: list[int], draw: st.DataObject) -> None:
    operators = [draw.draw(st.sampled_from("+-*")) for _ in operands[1:]]
    assert str(evaluate(operands, operators)) == calculate(join(operands, operators))


def test_operands_of_testing_are_never_trained_on() -> None:
    keys = {
        split: {operands_key(arithmetic_example(index, split)["operands"]) for index in range(5000)}
        for split in ("train", "test")
    }
    assert len(keys["test"]) > 400
    assert not keys["train"] & keys["test"]


def test_the_mirror_image_of_a_question_is_in_the_same_split() -> None:
    assert operands_key([7, 12]) == operands_key([12, 7])


def test_at_least_four_phrasings_and_all_operators_occur() -> None:
    questions = [arithmetic_example(index, "test")["messages"][0]["content"] for index in range(300)]
    for phrasing in PHRASINGS:
        beginning, ending = phrasing.split("{}")
        assert any(text.startswith(beginning) and text.endswith(ending) for text in questions)
    assert len(PHRASINGS) >= 4
    for sign in ("+", "-", "*", "plus", "minus", "times"):
        assert any(sign in text for text in questions)


@pytest.mark.parametrize("split", ["train", "test"])
def test_two_and_three_operands_occur(split: Split) -> None:
    assert {len(arithmetic_example(index, split)["operands"]) for index in range(50)} == {2, 3}
