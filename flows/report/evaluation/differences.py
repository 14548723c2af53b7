"""What each step of training changed: the paired difference of each evaluated model to the one before it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from flows.evaluation.paired import CONFIDENCE, Pair, TaskVerdicts, as_row, overall, pair_of
from flows.report.evaluation.answers import Evaluation


def differences_of(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return a comparison for each model with the one before it, where both were asked a task.

    Each is {"before", "after", "tasks": {name: row}, "overall": row, "left_out": {name: why}}; a row is that of
    `flows.evaluation.paired.as_row`, "against" the model before.
    """
    found = [compared(before, after) for before, after in pairwise(evaluations)]
    return [comparison for comparison in found if comparison["tasks"] or comparison["left_out"]]


def compared(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Return one comparison; tasks that only one of the two was asked are not mentioned."""
    names = (before.model, after.model)
    pairs: list[Pair] = [
        pair_of(task, verdicts_on(task, before), verdicts_on(task, after), CONFIDENCE, names)
        for task in before.answers
        if task in after.answers
    ]
    return {
        "before": before.model,
        "after": after.model,
        "tasks": {pair.task: as_row(pair.difference) for pair in pairs if pair.difference is not None},
        "overall": as_row(overall(pairs, CONFIDENCE).difference),
        "left_out": {pair.task: pair.note for pair in pairs if pair.difference is None},
    }


def verdicts_on(task: str, evaluation: Evaluation) -> TaskVerdicts:
    answers = [(row["index"], row["correct"]) for row in evaluation.answers[task]]
    return TaskVerdicts.of(evaluation.scores["tasks"][task], answers)


def verdict(row: Mapping[str, Any]) -> str:
    """Return what the interval says; one question alone has none.

    >>> ends = [(0.01, 0.2), (-0.1, 0.1), (-0.2, -0.01), (0.0, 0.0), (None, None)]
    >>> [verdict({"low": low, "high": high}) for low, high in ends]
    ['better', 'no clear difference', 'worse', 'no clear difference', 'too few questions']
    """
    if row["low"] is None:
        return "too few questions"
    if row["low"] > 0:
        return "better"
    return "worse" if row["high"] < 0 else "no clear difference"
