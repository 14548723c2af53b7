"""Two evaluations of the same questions, side by side: the paired difference of each task, and of all together.

    artifacts/evaluate_*/<fingerprint>/{scores.json, records/TASK.parquet}  twice  ->  Pair a task

Only equal questions are compared: a task counts where its version, its prompts (by their hash), its number of examples
and whatever else describes it are the same in both evaluations.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.evaluation.statistics import Difference, mean_difference, paired_difference
from nanochat_core import artifacts
from nanochat_core.errors import ArtifactError

CONFIDENCE = 0.95
OVERALL = "overall"
MEASURED = ("accuracy", "stderr", "low", "high", "centered", "groups", "curve")  # of a task; all else says what it was
DIFFERENCES = "differences"  # the folder below an evaluation's own


@dataclass(frozen=True)
class TaskVerdicts:
    """One task of one evaluation: what was asked (`identity`), and each example's share of right answers, by index."""

    identity: Mapping[str, Any]
    shares: Mapping[int, float]

    @classmethod
    def of(cls, summary: Mapping[str, Any], answers: Iterable[tuple[int, bool]]) -> "TaskVerdicts":
        """`summary` is the task's entry in scores.json, `answers` are (index of the example, whether it is right).

        >>> TaskVerdicts.of({"version": 1, "accuracy": 0.75}, [(0, True), (0, False), (1, True)])
        TaskVerdicts(identity={'version': 1}, shares={0: 0.5, 1: 1.0})
        """
        verdicts: dict[int, list[bool]] = {}
        for index, is_right in answers:
            verdicts.setdefault(index, []).append(is_right)
        identity = {name: value for name, value in summary.items() if name not in MEASURED}
        return cls(identity, {index: sum(found) / len(found) for index, found in verdicts.items()})


@dataclass(frozen=True)
class Pair:
    """One task, or all of them: the difference, or in `note` why there is none."""

    task: str
    difference: Difference | None = None
    note: str = ""


def pairs_of(
    old: Path, new: Path, *, confidence: float = CONFIDENCE, names: tuple[str, str] = ("the other", "this model")
) -> list[Pair]:
    """Return the difference (new - old) of each task of two finished evaluations, the overall one last.

    `names`: what the old and the new one are called in notes. Raises ArtifactError where records cannot be read.
    """
    before, after = read_verdicts(old), read_verdicts(new)
    tasks = list(dict.fromkeys([*before, *after]))
    found = [pair_of(task, before.get(task), after.get(task), confidence, names) for task in tasks]
    return [*found, overall(found, confidence)]


def pair_of(
    task: str, old: TaskVerdicts | None, new: TaskVerdicts | None, confidence: float, names: tuple[str, str]
) -> Pair:
    """Return the difference on one task, where both were asked the same."""
    if old is None or new is None:
        return Pair(task, note=f"only {names[1] if old is None else names[0]} was asked")
    if different := what_differs(old.identity, new.identity):
        return Pair(task, note=different)
    if old.shares.keys() != new.shares.keys():
        return Pair(task, note="not the same examples were asked")
    indices = sorted(old.shares)
    shares = [[side.shares[index] for index in indices] for side in (old, new)]
    return Pair(task, paired_difference(shares[0], shares[1], confidence=confidence))


def overall(pairs: Sequence[Pair], confidence: float) -> Pair:
    """Return the mean over the tasks that could be compared, each with the same weight."""
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    if not differences:
        return Pair(OVERALL, note="no task was asked in the same way of both")
    return Pair(OVERALL, mean_difference(differences, confidence=confidence))


def what_differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return in what two descriptions of a task differ, or nothing.

    >>> what_differs({"version": 1, "prompt_hash": "ab"}, {"version": 2, "prompt_hash": "ab"})
    'version 1 against 2'
    """
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} against {new.get(name)}" for name in names)


def read_verdicts(folder: Path) -> dict[str, TaskVerdicts]:
    """Return the tasks of a finished evaluation. Raises ArtifactError where its files cannot be read."""
    tasks = artifacts.read_json(folder / "scores.json")["tasks"]
    return {
        name: TaskVerdicts.of(summary, read_answers(folder / "records" / f"{name}.parquet"))
        for name, summary in tasks.items()
    }


def read_answers(path: Path) -> list[tuple[int, bool]]:
    """Return (index of the example, whether it is right) of each answer. Raises ArtifactError, naming the file."""
    try:
        table = pq.read_table(path, columns=["index", "correct"])
        indices, verdicts = table["index"].to_pylist(), table["correct"].to_pylist()
        return [(int(index), bool(is_right)) for index, is_right in zip(indices, verdicts, strict=True)]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        why = " ".join(str(error).split())[:200]
        raise ArtifactError(f"Cannot read the verdicts in {path}: {why}. Evaluate the model again.") from None


def keep_differences(pairs: Sequence[Pair], folder: Path, other: Path, *, model: str, against: str) -> Path:
    """Write the differences beside the scores that they belong to; return the file.

    {"model", "against", "folder" (of the other evaluation), "confidence", "rows": [{"task", "note", "n", "model",
    "against", "difference", "stderr", "low", "high"}, …]}: accuracies and differences are shares of 1.
    """
    rows = [{"task": pair.task, "note": pair.note, **as_row(pair.difference)} for pair in pairs]
    place = f"{other.parent.name}/{other.name}"
    path = folder / DIFFERENCES / f"{other.parent.name}-{other.name}.json"
    path.parent.mkdir(exist_ok=True)
    whole = {"model": model, "against": against, "folder": place, "confidence": CONFIDENCE, "rows": rows}
    artifacts.write_json(path, whole)
    return path


def as_row(difference: Difference | None) -> dict[str, Any]:
    """Return the numbers under names that say which model they are of; what is infinite, as None."""
    if difference is None:
        return {}
    values = asdict(difference)
    names = {"old": "against", "new": "model", "mean": "difference"}
    kept = {names.get(key, key): value for key, value in values.items() if key != "freedom"}
    return {key: value if math.isfinite(value) else None for key, value in kept.items()}
