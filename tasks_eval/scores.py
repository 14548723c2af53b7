"""Numbers from verdicts: accuracy with its standard error, centred accuracy, ChatCORE."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]  # {"index", "task", "prompt_sha256", "answer", "expected", "correct", …}; one a sample


def summarize(records: Sequence[Record], *, baseline: float) -> dict[str, Any]:
    """Return accuracy, stderr, centered accuracy, n (questions), baseline and the hash of all prompts in order.

    Samples of one question are averaged first; the standard error is over questions.
    """
    by_question: dict[int, list[bool]] = {}
    for record in records:
        by_question.setdefault(record["index"], []).append(record["correct"])
    values = [sum(verdicts) / len(verdicts) for verdicts in by_question.values()]
    accuracy = sum(values) / len(values)
    return {
        "accuracy": accuracy,
        "stderr": standard_error(values),
        "centered": centered(accuracy, baseline),
        "n": len(values),
        "baseline": baseline,
        "prompt_hash": hash_prompts(records),
    }


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 for a single value.

    >>> standard_error([0.0, 1.0])
    0.5
    """
    n = len(values)
    if n < 2:
        return 0.0
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def centered(accuracy: float, baseline: float) -> float:
    """Return 0 for guessing and 1 for all right.

    >>> centered(0.625, 0.25)
    0.5
    """
    return (accuracy - baseline) / (1 - baseline)


def hash_prompts(records: Sequence[Record]) -> str:
    """Return 16 hex digits that change when any prompt or their order does."""
    prompts = [str(record["prompt_sha256"]) for record in records]
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]


def chatcore(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean centred accuracy of the tasks that ran, with their list: the value means nothing without it.

    >>> chatcore({"A": {"centered": 0.5}, "B": {"centered": 0.0}})
    {'value': 0.25, 'tasks': ['A', 'B']}
    """
    return {"value": sum(row["centered"] for row in summaries.values()) / len(summaries), "tasks": list(summaries)}
