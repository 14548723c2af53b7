"""Accuracy, its interval, what several answers are worth, and the means over tasks."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_eval.records import Record
from tasks_eval.scores import (
    centered,
    chatcore,
    hash_prompts,
    identity_rates,
    interval,
    pass_at,
    summarize,
    votes_right,
)


def record(index: int, is_correct: bool, sample: int = 0, answer: str | None = "x", group: str = "") -> Record:
    return Record(index, "made", "?", f"hash {index}", "y", is_correct, answer, sample=sample, group=group)


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_a_share(verdicts: list[bool]) -> None:
    summary = summarize([record(index, verdict) for index, verdict in enumerate(verdicts)], baseline=0.25)
    p, n = sum(verdicts) / len(verdicts), len(verdicts)
    assert summary["accuracy"] == pytest.approx(p) and summary["n"] == n
    assert summary["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    assert summary["centered"] == pytest.approx(centered(p, 0.25))
    assert 0 <= summary["low"] <= p <= summary["high"] <= 1


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("answers", [1, 4])
def test_the_interval_holds_the_truth_as_often_as_it_says(share: float, answers: int) -> None:
    """1,000 evaluations of 60 questions: about 95 % of the intervals hold the share that they are drawn with."""
    rng = random.Random(f"{share} {answers}")
    hits = 0
    for _ in range(1000):
        values = [sum(rng.random() < share for _ in range(answers)) / answers for _ in range(60)]
        low, high = interval(values)
        hits += low <= share <= high
    assert 920 <= hits <= 985


def test_samples_of_one_question_are_averaged_before_the_error_is_taken() -> None:
    samples = [record(0, True), record(0, False, 1), record(1, True), record(1, True, 1)]
    summary = summarize(samples, baseline=0.0)
    assert (summary["accuracy"], summary["n"], summary["samples"]) == (0.75, 2, 2)
    assert summary["stderr"] == pytest.approx(0.25)


def ends(values: list[float]) -> dict[str, float]:
    low, high = interval(values)
    return {"low": low, "high": high}


def test_the_rates_of_identity_have_wilsons_intervals_and_the_false_one_is_turned_round() -> None:
    rows = [record(n, n < 8, group="identity") for n in range(10)]
    rows += [record(10 + n, n < 9, group="harmless") for n in range(10)]
    rates = identity_rates(summarize(rows, baseline=0.0)["groups"])
    assert list(rates) == ["identity_accuracy", "false_decline_rate"]  # nothing was to be declined
    told, harmless = rates.values()
    assert (told["value"], told["n"]) == (0.8, 10)
    assert (round(told["low"], 3), round(told["high"], 3)) == (0.490, 0.943)  # Wilson, 8 of 10
    assert harmless["value"] == pytest.approx(0.1)
    assert (round(harmless["low"], 3), round(harmless["high"], 3)) == (0.018, 0.404)  # Wilson, 1 of 10


def test_who_the_model_is_counts_for_no_mean_over_tasks() -> None:
    row = {"stderr": 0.1, "baseline": 0.0}
    others = {"Facts": row | {"centered": 0.5}, "Spelling": row | {"centered": 0.25}}
    assert chatcore(others | {"Identity": row | {"centered": 1.0}}) == chatcore(others)
    assert chatcore({"Identity": row | {"centered": 1.0}}) == {}


def test_each_part_of_a_task_has_an_accuracy_of_its_own() -> None:
    rows = [record(0, True, group="law"), record(1, False, group="law"), record(2, True, group="art")]
    assert summarize(rows, baseline=0.25)["groups"] == {
        "art": {"n": 1, "accuracy": 1.0, "stderr": 0.0} | ends([1.0]),
        "law": {"n": 2, "accuracy": 0.5, "stderr": 0.5} | ends([1.0, 0.0]),
    }
    assert "groups" not in summarize([record(0, True)], baseline=0.25)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(1, 7))
def test_pass_at_k_is_the_share_of_all_choices_of_k_answers_that_hold_a_right_one(verdicts: list[bool], k: int) -> None:
    k = min(k, len(verdicts))
    choices = list(itertools.combinations(verdicts, k))
    expected = sum(any(chosen) for chosen in choices) / len(choices)
    assert pass_at(k, len(verdicts), sum(verdicts)) == pytest.approx(expected)


def test_the_curve_says_what_more_answers_are_worth() -> None:
    """Of three answers two are right and alike in one question, and one in the other."""
    rows = [
        *(record(0, right, number, answer) for number, (right, answer) in enumerate([(0, "5"), (1, "4"), (1, "4")])),
        *(record(1, right, number, answer) for number, (right, answer) in enumerate([(1, "7"), (0, "8"), (0, "8")])),
    ]
    curve = summarize(rows, baseline=0.0)["curve"]
    assert [point["samples"] for point in curve] == [1, 2, 3]
    assert [point["pass"] for point in curve] == pytest.approx([0.5, (1 + 2 / 3) / 2, 1.0])
    assert [point["majority"] for point in curve] == pytest.approx([0.5, 0.5, 0.5])
    assert curve[0]["pass_stderr"] == pytest.approx(1 / 6)
    programs = summarize(rows, baseline=0.0, can_vote=False)["curve"]
    assert [point["majority"] for point in programs] == [None, None, None]


def test_an_answer_that_could_not_be_read_is_no_vote() -> None:
    nothing = [record(0, False, number, None) for number in range(3)]
    assert votes_right([*nothing, record(0, True, 3, "4")])
    assert not votes_right(nothing)


def test_the_prompt_hash_changes_with_a_prompt_and_with_the_order() -> None:
    one, two = record(0, True), record(1, True)
    hashes = {hash_prompts(rows) for rows in ([one], [two], [one, two], [two, one])}
    assert len(hashes) == 4


def test_chatcore_names_the_tasks_it_is_over_and_its_error_is_that_of_independent_tasks() -> None:
    scores = {
        name: {"centered": value, "stderr": 0.03, "baseline": baseline}
        for name, value, baseline in (("A", 1.0, 0.25), ("B", 0.0, 0.25), ("C", -0.25, 0.0))
    }
    found = chatcore(scores)
    assert (found["value"], found["tasks"]) == (0.25, ["A", "B", "C"])
    assert found["stderr"] == pytest.approx(math.sqrt(2 * 0.04**2 + 0.03**2) / 3)
