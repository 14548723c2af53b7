"""What each step of training changed: the paired difference of two successive models on the questions both were asked.

Two models answered the same questions, so how hard a question is for everybody drops out of the difference
(flows/promotion/statistics.py has the arithmetic).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from flows.promotion.statistics import Difference, mean_difference, paired_difference
from flows.report_evaluation.answers import Evaluation, shares_right

CONFIDENCE = 0.95


def differences_of(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return a comparison for each model with the one before it, where both were asked something in the same way.

    Each is {"before", "after", "tasks": {name: numbers of Difference}, "overall": the mean over the tasks, "left_out":
    {name: why}}.
    """
    found = [compared(before, after) for before, after in pairwise(evaluations)]
    return [comparison for comparison in found if comparison["tasks"] or comparison["left_out"]]


def compared(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Return one comparison; tasks that only one of the two was asked are not mentioned."""
    tasks: dict[str, Difference] = {}
    left_out = {}
    for name in before.answers:
        if name not in after.answers:
            continue
        result = difference_on(name, before, after)
        if isinstance(result, str):
            left_out[name] = result
        else:
            tasks[name] = result
    overall = asdict(mean_difference(list(tasks.values()), confidence=CONFIDENCE)) if tasks else {}
    return {
        "before": before.model,
        "after": after.model,
        "tasks": {name: asdict(difference) for name, difference in tasks.items()},
        "overall": overall,
        "left_out": left_out,
    }


def difference_on(task: str, before: Evaluation, after: Evaluation) -> Difference | str:
    """Return the difference on one task, or why there is none. A question counts where its prompt is the same."""
    versions = [evaluation.scores["tasks"][task].get("version") for evaluation in (before, after)]
    if versions[0] != versions[1]:
        return f"version {versions[0]} against {versions[1]}"
    old, new = shares_right(before.answers[task]), shares_right(after.answers[task])
    questions = [question for question in old if question in new]
    if not questions:
        return "no question was asked of both"
    return paired_difference(
        [old[question] for question in questions], [new[question] for question in questions], confidence=CONFIDENCE
    )


def verdict(difference: Mapping[str, Any]) -> str:
    """Return what the interval says.

    >>> [verdict({"low": low, "high": high}) for low, high in ((0.01, 0.2), (-0.1, 0.1), (-0.2, -0.01), (0.0, 0.0))]
    ['better', 'no clear difference', 'worse', 'no clear difference']
    """
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "no clear difference"
