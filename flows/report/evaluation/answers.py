"""The answers of an evaluation, from artifacts/evaluate_*/<fingerprint>/records/TASK.parquet: one row an answer.

The columns that are read here are those of tasks_eval/records.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.report.evaluation.gallery import read_gallery
from nanochat_core.artifacts import read_json

COLUMNS = (
    "index",
    "sample",
    "group",
    "prompt",
    "options",
    "logprobs",
    "num_tokens",
    "completion",
    "answer",
    "expected",
    "correct",
    "note",
)


@dataclass(frozen=True)
class Evaluation:
    """One model's evaluation: `scores` as scores.json has them, `answers` {task: rows}, and why some cannot be read;
    `gallery` as gallery.json has it, None: there is none.

    `model` is a name of the pipeline's (base, mid, sft, rl), or what people call it.
    """

    model: str
    scores: Mapping[str, Any]
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    troubles: Sequence[str] = field(default=())
    gallery: Mapping[str, Any] | None = None


def read_evaluation(model: str, folder: Path) -> Evaluation:
    """Read a finished evaluation from its folder; raises ArtifactError where it has no result.

    Files that are not there (`nanochat gc` removes big ones) or cannot be read become a line in `troubles`: a report
    without some answers is better than none.
    """
    scores: dict[str, Any] = read_json(folder / "result.json")["details"]
    answers, troubles = {}, []
    for task in scores["tasks"]:
        path = folder / "records" / f"{task}.parquet"
        try:
            answers[task] = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = "is not there" if not path.exists() else f"cannot be read ({first_line(error)})"
            troubles.append(f"{model}, {task}: {folder.name}/records/{path.name} {reason}; its answers are left out.")
    return Evaluation(model, scores, answers, troubles, read_gallery(folder))


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
