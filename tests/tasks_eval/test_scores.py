"""Accuracy, its error, and the means over tasks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_eval.scores import Record, centered, chatcore, hash_prompts, summarize


def record(index: int, is_correct: bool) -> Record:
    return {"index": index, "prompt_sha256": f"hash {index}", "correct": is_correct}


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_a_share(verdicts: list[bool]) -> None:
    summary = summarize([record(index, verdict) for index, verdict in enumerate(verdicts)], baseline=0.25)
    p, n = sum(verdicts) / len(verdicts), len(verdicts)
    assert summary["accuracy"] == pytest.approx(p) and summary["n"] == n
    assert summary["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    assert summary["centered"] == pytest.approx(centered(p, 0.25))


def test_samples_of_one_question_are_averaged_before_the_error_is_taken() -> None:
    samples = [record(0, True), record(0, False), record(1, True), record(1, True)]
    summary = summarize(samples, baseline=0.0)
    assert summary["accuracy"] == 0.75 and summary["n"] == 2
    assert summary["stderr"] == pytest.approx(0.25)


def test_the_prompt_hash_changes_with_a_prompt_and_with_the_order() -> None:
    one, two = record(0, True), record(1, True)
    hashes = {hash_prompts(rows) for rows in ([one], [two], [one, two], [two, one])}
    assert len(hashes) == 4


def test_chatcore_names_the_tasks_it_is_over() -> None:
    scores = {"A": {"centered": 1.0}, "B": {"centered": 0.0}, "C": {"centered": -0.25}}
    assert chatcore(scores) == {"value": 0.25, "tasks": ["A", "B", "C"]}
