"""Whether a challenger may take the champion's place: what both evaluations say of the same examples.

    artifacts/evaluate_*/<fingerprint>/{scores.json, records/TASK.parquet}  twice  ->  Decision

Only equal questions are compared (flows/evaluation/paired.py), and where one task cannot be, nobody is promoted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from flows.evaluation.paired import OVERALL, Pair, pairs_of
from flows.evaluation.statistics import Difference
from nanochat_core.spec_base import Spec

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
    names = ("the champion", "the challenger")
    pairs = pairs_of(champion, challenger, confidence=thresholds.confidence, names=names)
    return Decision([row_of(pair, thresholds) for pair in pairs])


def row_of(pair: Pair, thresholds: Thresholds) -> Row:
    """Return the verdict on one task, or on all of them."""
    found = pair.difference
    if found is None:
        return Row(pair.task, "not comparable", note=pair.note)
    if pair.task != OVERALL and found.n < thresholds.min_examples:
        return Row(pair.task, "too few examples", found, f"{found.n} of at least {thresholds.min_examples}")
    return Row(pair.task, verdict_on(found, thresholds.max_drop), found)


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
