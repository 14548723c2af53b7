"""Whether a challenger may take the champion's place: what both evaluations say of the same examples.

    artifacts/evaluate_*/<fingerprint>/{scores.json, records/TASK.jsonl}  twice  ->  Decision

Only equal questions are compared: a task counts where its version, its prompts (by their hash), its number of examples
and whatever else describes it are the same in both evaluations.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flows.promotion.statistics import Difference, mean_difference, paired_difference
from nanochat_core import artifacts
from nanochat_core.errors import ArtifactError
from nanochat_core.spec_base import Spec

OVERALL = "overall"
MEASURED = ("accuracy", "stderr", "centered")  # of a task in scores.json; all else says what was asked
Verdict = Literal["better", "not worse", "worse", "unclear", "too few examples", "not comparable"]
PASSED: tuple[Verdict, ...] = ("better", "not worse")


class Thresholds(Spec):
    """When a challenger counts as not worse than the champion."""

    max_drop: float = Field(
        5.0,
        ge=0,
        le=100,
        description="percentage points that a task, and the mean of all, may lose: the interval's lower end may not "
        "lie further below zero",
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="share of such intervals (two-sided) that hold the true difference"
    )
    min_examples: int = Field(100, ge=2, description="examples that each task must have for its interval to count")


@dataclass(frozen=True)
class TaskVerdicts:
    """One task of one evaluation: what was asked (`identity`), and each example's share of right answers, by index."""

    identity: Mapping[str, Any]
    shares: Mapping[int, float]


@dataclass(frozen=True)
class Row:
    """One task, or all of them: the difference (None where nothing can be compared), the verdict, and why."""

    task: str
    verdict: Verdict
    difference: Difference | None = None
    note: str = ""


@dataclass(frozen=True)
class Decision:
    """`rows` of the tasks, the overall row last. `is_promoted`: every one of them has passed."""

    rows: Sequence[Row]

    @property
    def is_promoted(self) -> bool:
        return all(row.verdict in PASSED for row in self.rows)

    @property
    def reason(self) -> str:
        """Return why, in one line.

        >>> Decision([Row("Facts", "worse"), Row("Sums", "better"), Row("overall", "unclear")]).reason
        'worse: Facts; unclear: overall'
        >>> Decision([Row("Facts", "better"), Row("overall", "not worse")]).reason
        'not worse on any task, nor overall'
        """
        if self.is_promoted:
            return "not worse on any task, nor overall"
        failed: dict[str, list[str]] = {}
        for row in self.rows:
            if row.verdict not in PASSED:
                failed.setdefault(row.verdict, []).append(row.task)
        return "; ".join(f"{verdict}: {', '.join(tasks)}" for verdict, tasks in failed.items())


def decide(champion: Path, challenger: Path, thresholds: Thresholds) -> Decision:
    """Compare two finished evaluations. Raises ArtifactError where their records cannot be read."""
    old, new = read_evaluation(champion), read_evaluation(challenger)
    tasks = list(dict.fromkeys([*old, *new]))
    rows = [compare(task, old.get(task), new.get(task), thresholds) for task in tasks]
    differences = [row.difference for row in rows if row.difference is not None]
    if not differences:
        return Decision([*rows, Row(OVERALL, "not comparable", note="no task was asked in the same way of both")])
    overall = mean_difference(differences, confidence=thresholds.confidence)
    return Decision([*rows, Row(OVERALL, verdict_on(overall, thresholds.max_drop), overall)])


def compare(task: str, old: TaskVerdicts | None, new: TaskVerdicts | None, thresholds: Thresholds) -> Row:
    """Return the verdict on one task."""
    if old is None or new is None:
        return Row(task, "not comparable", note=f"only the {'challenger' if old is None else 'champion'} was asked")
    if different := what_differs(old.identity, new.identity):
        return Row(task, "not comparable", note=different)
    if old.shares.keys() != new.shares.keys():
        return Row(task, "not comparable", note="not the same examples were asked")
    indices = sorted(old.shares)
    found = paired_difference(
        [old.shares[index] for index in indices],
        [new.shares[index] for index in indices],
        confidence=thresholds.confidence,
    )
    if found.n < thresholds.min_examples:
        return Row(task, "too few examples", found, f"{found.n} of at least {thresholds.min_examples}")
    return Row(task, verdict_on(found, thresholds.max_drop), found)


def verdict_on(difference: Difference, max_drop: float) -> Verdict:
    """Return what an interval says, with `max_drop` in points.

    >>> def interval(low, high):
    ...     return Difference(100, 0.5, 0.5, (low + high) / 2, 0.01, 99, low, high)
    >>> ends = [(0.01, 0.05), (-0.02, 0.04), (-0.08, 0.02), (-0.08, -0.04)]
    >>> [verdict_on(interval(*pair), max_drop=5) for pair in ends]
    ['better', 'not worse', 'unclear', 'worse']
    """
    if difference.low > 0:
        return "better"
    if difference.low >= -max_drop / 100:
        return "not worse"
    return "worse" if difference.high < 0 else "unclear"


def what_differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return in what two descriptions of a task differ, or nothing.

    >>> what_differs({"version": 1, "prompt_hash": "ab"}, {"version": 2, "prompt_hash": "ab"})
    'version 1 against 2'
    """
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} against {new.get(name)}" for name in names)


def read_evaluation(folder: Path) -> dict[str, TaskVerdicts]:
    """Return the tasks of a finished evaluation. Raises ArtifactError where its files cannot be read."""
    tasks = artifacts.read_json(folder / "scores.json")["tasks"]
    return {
        name: TaskVerdicts(
            {key: value for key, value in summary.items() if key not in MEASURED},
            read_shares(folder / "records" / f"{name}.jsonl"),
        )
        for name, summary in tasks.items()
    }


def read_shares(path: Path) -> dict[int, float]:
    """Return {index of an example: share of its samples that are right}. Raises ArtifactError, naming the file."""
    verdicts: dict[int, list[bool]] = {}
    try:
        with open(path, encoding="utf-8") as file:  # its lines end with \n alone: answers may hold U+2028
            for line in file:
                record = json.loads(line)
                verdicts.setdefault(int(record["index"]), []).append(bool(record["correct"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"Cannot read the verdicts in {path}: {error}. Evaluate the model again.") from None
    return {index: math.fsum(found) / len(found) for index, found in verdicts.items()}
