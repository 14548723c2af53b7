"""What an MLflow run is to look like, kept on the disk until MLflow has it: nothing depends on a server that answers.

    $NANOCHAT_BASE_DIR/mlflow_pending/<key>.json     one file for each run that is open, or not yet written to its end
    artifacts/<stage>/<fingerprint>/mlflow.json      which run shows this stage; a later attempt continues it

A flow that is killed leaves these files. Whoever comes next (the tracker of the next run, `nanochat up`) finishes what
they ask for, once no living process owns the run (flows/run_lock.py).
"""

import contextlib
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from flows import run_lock
from nanochat_core import paths
from nanochat_core.artifacts import read_json, write_json
from nanochat_core.errors import ArtifactError

LINK = "mlflow.json"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Headline(BaseModel):
    """Numbers that have no curve; `time` in seconds since the epoch."""

    time: float
    values: dict[str, float]


class RunRecord(BaseModel):
    """One MLflow run. `key` is its name in our files and a tag in MLflow, by which it is found again."""

    key: str
    owner: str  # the flow run that it belongs to; its lock tells whether that one is alive
    store: str  # address of the tracking store, without user and password
    name: str
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    parent: str | None = None  # key of the parent's record
    run_id: str | None = None
    folder: Path | None = None  # of a stage
    has_curves: bool = False  # whether the metrics files in the folder are this run's
    is_continued: bool = False  # begun by an earlier flow run: name the new one in its tags
    headlines: list[Headline] = []
    files: list[Path] = []
    registers_model: bool = False
    status: Status = "RUNNING"
    started: float  # seconds since the epoch
    ended: float | None = None


def end(record: RunRecord, status: Status) -> None:
    """Have the run closed."""
    record.status, record.ended = status, time.time()


def pending_dir(base: Path) -> Path:
    return base / "mlflow_pending"


def record_path(base: Path, key: str) -> Path:
    return pending_dir(base) / f"{key}.json"


def save(base: Path, record: RunRecord) -> None:
    """Keep the record until `forget`."""
    pending_dir(base).mkdir(parents=True, exist_ok=True)
    write_json(record_path(base, record.key), record.model_dump(mode="json"))


def forget(base: Path, key: str) -> None:
    """MLflow has all of it."""
    record_path(base, key).unlink(missing_ok=True)


def load(base: Path, key: str) -> RunRecord | None:
    """Return the record, or None where there is none that can be read."""
    try:
        return RunRecord.model_validate(read_json(record_path(base, key)))
    except (ArtifactError, ValidationError):
        return None


def orphans(base: Path) -> list[RunRecord]:
    """Return the records whose flow run is not alive, parents first."""
    found = [load(base, path.stem) for path in sorted(pending_dir(base).glob("*.json"))]
    ours = [record for record in found if record and run_lock.look(base, record.owner).life != "alive"]
    return sorted(ours, key=lambda record: (record.parent is not None, record.started))


class StageLink(BaseModel):
    """Which MLflow run shows a stage's folder."""

    key: str
    run_id: str | None = None
    is_finished: bool = False


def read_link(folder: Path) -> StageLink | None:
    """Return the folder's link, or None where there is none that can be read."""
    try:
        return StageLink.model_validate(read_json(folder / LINK))
    except (ArtifactError, ValidationError):
        return None


def write_link(record: RunRecord) -> None:
    """Note in the stage's folder which run shows it."""
    if record.folder is not None and record.has_curves:
        link = StageLink(key=record.key, run_id=record.run_id, is_finished=record.status == "FINISHED")
        with contextlib.suppress(FileNotFoundError):  # the folder was removed: nothing is left to be found
            write_json(record.folder / LINK, link.model_dump(mode="json"))


def default_store(base: Path) -> str:
    """Return the address of the store in the base folder."""
    return f"sqlite:///{paths.mlflow_dir(base)}/mlflow.db"
