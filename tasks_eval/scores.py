"""Numbers from records: accuracy with its interval, centred accuracy, ChatCORE, accuracy over several answers."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

from tasks_eval.records import Record

ASIDE = ("Identity",)  # tasks whose accuracy is no part of a mean over tasks
RATES = {  # of the task Identity: the part that each rate is of, and whether it counts what is wrong
    "identity_accuracy": ("identity", False),
    "decline_rate": ("decline", False),
    "false_decline_rate": ("harmless", True),
}
CONFIDENCE = 0.95
Z95 = 1.959964  # the normal distribution's quantile at 0.975


def summarize(records: Sequence[Record], *, baseline: float, can_vote: bool = True) -> dict[str, Any]:
    """Return what a task's records say: n (questions), samples (answers to each), accuracy with its standard error and
    95 % interval, centered accuracy, baseline, and the hash of all prompts in order.

    Answers to one question are averaged first; the standard error is over questions. Where the task has parts, there is
    an accuracy of each in `groups`; where there are several answers, `curve` says what more of them are worth, with the
    vote of the majority where answers can be compared (`can_vote`), as programs cannot.
    """
    questions = by_question(records)
    values = [share_right(answers) for answers in questions]
    accuracy = sum(values) / len(values)
    low, high = interval(values)
    summary: dict[str, Any] = {
        "n": len(questions),
        "samples": len(questions[0]),
        "accuracy": accuracy,
        "stderr": standard_error(values),
        "low": low,
        "high": high,
        "baseline": baseline,
        "centered": centered(accuracy, baseline),
        "prompt_hash": hash_prompts(records),
    }
    if any(record.group for record in records):
        summary["groups"] = groups(questions)
    if summary["samples"] > 1:
        summary["curve"] = sampling_curve(questions, can_vote=can_vote)
    return summary


def by_question(records: Iterable[Record]) -> list[list[Record]]:
    """Return the records of each question, the questions in order of their numbers."""
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(record.index, []).append(record)
    return [found[index] for index in sorted(found)]


def share_right(records: Sequence[Record]) -> float:
    return sum(record.correct for record in records) / len(records)


def groups(questions: Sequence[Sequence[Record]]) -> dict[str, dict[str, Any]]:
    """Return {group: {"n", "accuracy", "stderr", "low", "high"}}, by name."""
    values: dict[str, list[float]] = {}
    for records in questions:
        values.setdefault(records[0].group, []).append(share_right(records))
    return {
        name: {"n": len(own), "accuracy": sum(own) / len(own), "stderr": standard_error(own)}
        | dict(zip(("low", "high"), interval(own), strict=True))
        for name, own in sorted(values.items())
    }


def identity_rates(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {rate: {"n", "value", "stderr", "low", "high"}} of the task Identity, from the `groups` of its summary.

    A persona that declines nothing has no decline rate. A harmless question counts as declined where nothing is said.

    >>> harmless = {"n": 10, "accuracy": 0.75, "stderr": 0.125, "low": 0.5, "high": 0.875}
    >>> identity_rates({"harmless": harmless})
    {'false_decline_rate': {'n': 10, 'value': 0.25, 'stderr': 0.125, 'low': 0.125, 'high': 0.5}}
    """
    rates = {}
    for name, (part, counts_wrong) in RATES.items():
        if row := parts.get(part):
            value, low, high = row["accuracy"], row["low"], row["high"]
            if counts_wrong:
                value, low, high = 1 - value, 1 - high, 1 - low
            rates[name] = {"n": row["n"], "value": value, "stderr": row["stderr"], "low": low, "high": high}
    return rates


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


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean of shares: Wilson's (1927) where all are 0 or 1, else Student's in [0, 1].

    Wilson's has a width even where nothing was right:

    >>> low, high = interval([0.0] * 20)
    >>> low, round(high, 3)
    (0.0, 0.161)
    >>> [round(end, 3) for end in interval([1.0, 0.0, 1.0, 1.0])]
    [0.301, 0.954]
    >>> [round(end, 3) for end in interval([0.5, 0.4, 0.6, 0.5])]
    [0.37, 0.63]
    """
    n, mean = len(values), sum(values) / len(values)
    if all(value in (0.0, 1.0) for value in values):
        square = Z95**2 / n
        middle = (mean + square / 2) / (1 + square)
        half = Z95 / (1 + square) * math.sqrt(mean * (1 - mean) / n + square / (4 * n))
        return (0.0 if mean == 0 else middle - half), (1.0 if mean == 1 else middle + half)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * standard_error(values) if n > 1 else 1.0
    return max(0.0, mean - half), min(1.0, mean + half)


def sampling_curve(questions: Sequence[Sequence[Record]], *, can_vote: bool) -> list[dict[str, Any]]:
    """Return what k answers to a question are worth, for k = 1, 2, 4, … and all of them.

    pass: the chance that one of k is right (`pass_at`). majority: how often the answer that most of k give is right,
    over as many groups of k as there are; None where there is no vote.
    """
    count = min(map(len, questions))
    sizes = [size for size in (2**power for power in range(count.bit_length())) if size < count] + [count]
    curve = []
    for k in sizes:
        passes = [pass_at(k, len(records), sum(record.correct for record in records)) for records in questions]
        point: dict[str, Any] = {"samples": k, "pass": sum(passes) / len(passes), "pass_stderr": standard_error(passes)}
        votes = [majority_share(records, k) for records in questions] if can_vote else []
        point["majority"] = sum(votes) / len(votes) if votes else None
        point["majority_stderr"] = standard_error(votes) if votes else None
        curve.append(point)
    return curve


def pass_at(k: int, n: int, right: int) -> float:
    """Return the unbiased estimate of the chance that one of k answers is right, from `right` of n (Chen et al. 2021).

    >>> pass_at(1, 4, 1), pass_at(2, 4, 1), pass_at(4, 4, 1), pass_at(3, 4, 0)
    (0.25, 0.5, 1.0, 0.0)
    """
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def majority_share(records: Sequence[Record], k: int) -> float:
    """Return how many of the groups of k answers, in their order, vote right; of equals the first given wins."""
    firsts = range(0, len(records) - k + 1, k)
    return sum(votes_right(records[first : first + k]) for first in firsts) / len(firsts)


def votes_right(records: Sequence[Record]) -> bool:
    """Tell whether the answer that is given most often is right; no answer is no vote."""
    counts: dict[str, int] = {}
    for record in records:
        if record.answer is not None:
            counts[record.answer] = counts.get(record.answer, 0) + 1
    best = max(counts, key=counts.__getitem__, default=None)
    return any(record.correct for record in records if best is not None and record.answer == best)


def centered(accuracy: float, baseline: float) -> float:
    """Return 0 for guessing and 1 for all right.

    >>> centered(0.625, 0.25)
    0.5
    """
    return (accuracy - baseline) / (1 - baseline)


def hash_prompts(records: Sequence[Record]) -> str:
    """Return 16 hex digits that change when any prompt or their order does."""
    return hashlib.sha256("\n".join(record.prompt_sha256 for record in records).encode()).hexdigest()[:16]


def mean_centered(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Return the mean of the tasks' centred accuracies and its standard error; the tasks are independent.

    >>> mean_centered({"A": {"centered": 0.5, "stderr": 0.3, "baseline": 0.0}})
    (0.5, 0.3)
    """
    errors = [row["stderr"] / (1 - row["baseline"]) for row in tasks.values()]
    return sum(row["centered"] for row in tasks.values()) / len(tasks), math.hypot(*errors) / len(errors)


def chatcore(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return ChatCORE: the mean centred accuracy of the tasks that ran but for those ASIDE, with their list; it means
    nothing without. Nothing where there is no such task.

    >>> row = {"stderr": 0.0, "baseline": 0.0}
    >>> chatcore({"A": row | {"centered": 0.5}, "B": row | {"centered": 0.0}})
    {'value': 0.25, 'stderr': 0.0, 'tasks': ['A', 'B']}
    """
    counted = {name: row for name, row in tasks.items() if name not in ASIDE}
    if not counted:
        return {}
    value, stderr = mean_centered(counted)
    return {"value": value, "stderr": stderr, "tasks": list(counted)}
