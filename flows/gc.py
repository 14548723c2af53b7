"""What the artifacts cost, which of them nobody needs any more, and their removal: `nanochat gc`.

A finished stage is pruned: its big files go, its manifest stays and says so, and it still counts as done. It runs again
only where another stage needs the files (flows/pipeline_run.py). Unfinished work that is old goes altogether.

Kept are: the newest runs of each recipe, whatever a report or the work itself of the last days names, the newest run of
all, imported models, those with an alias in MLflow's registry or a server, and all that a running stage holds or reads.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flows import locks, run_lock
from flows.gc_usage import Usage, usage_of
from flows.serving import record as serving_record
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import FileRecord, Manifest
from nanochat_core.errors import NanochatError

DAY = 86_400.0
SMALL_BYTES = 1 << 20
CHECKPOINTS, LOCK = "checkpoints", ".lock"
IMPORTED = "imported"  # a parameter of models from elsewhere (nanochat_core/conversion/importing.py)

Action = Literal["keep", "prune", "remove"]


@dataclass(frozen=True)
class Rules:
    """What is kept whatever it costs."""

    keep_runs: int = 2  # of each recipe, the newest
    keep_days: float = 7.0


@dataclass(frozen=True)
class Artifact:
    """One folder of a stage. `size` and `freed` in bytes; `why` says in a few words what the action follows from."""

    folder: Path
    size: int
    age_days: float
    action: Action
    why: str
    freed: int = 0
    runs: Sequence[str] = field(default=())
    models: Sequence[str] = field(default=())

    @property
    def stage(self) -> str:
        return self.folder.parent.name


def survey(base: Path, rules: Rules) -> list[Artifact]:
    """Return every artifact with what is to happen to it, the costliest first. Nothing is changed."""
    usage = usage_of(base, keep_runs=rules.keep_runs, keep_days=rules.keep_days)
    folders = sorted(path for path in paths.artifacts_dir(base).glob("*/*") if path.is_dir())
    found = [look_at(folder, usage, rules) for folder in folders]
    return sorted(found, key=lambda artifact: (-artifact.size, artifact.folder))


def look_at(folder: Path, usage: Usage, rules: Rules) -> Artifact:
    """Return one folder with its costs and the action that the rules give it."""
    manifest = artifacts.read_manifest(folder)
    size, changed = measure(folder)
    age = (time.time() - (manifest.created if manifest else changed)) / DAY
    action: Action = "keep"
    freed, why = 0, usage.reason_to_keep(folder)
    if not why and manifest is not None and IMPORTED in manifest.params:
        why = "imported"  # nothing here could make it again
    if not why and age < rules.keep_days:
        why = f"younger than {rules.keep_days:g} days"
    if not why and manifest is None:
        freed, action, why = size, "remove", "unfinished"
    elif not why and manifest is not None:
        freed = sum(path.stat().st_size for path in files_to_prune(folder, manifest))
        action, why = ("prune", "no kept run needs it") if freed else ("keep", "nothing big in it")
    if manifest and manifest.is_pruned and action == "keep":
        why = "pruned"
    runs, models = usage.runs_of(folder), usage.models_of(folder)
    return Artifact(folder, size, age, action, why, freed, runs, models)


def measure(folder: Path) -> tuple[int, float]:
    """Return the bytes of all files below a folder, and when it was worked in last (seconds since the epoch)."""
    size, times = 0, [0.0]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a stage is writing there
            status = path.lstat()
            if path.is_file() and path.name != LOCK:  # a look at the lock is no work
                size += status.st_size
                times.append(status.st_mtime)
    return size, max(times) or folder.stat().st_mtime


def is_prunable(record: FileRecord) -> bool:
    """Tell whether an output may go: checkpoints, shards, rendered conversations, data sets; never records or scores.

    >>> paths = ("checkpoints/step_3/model.safetensors", "shards/a.parquet", "records/copa.parquet", "scores.json")
    >>> [is_prunable(FileRecord(path=path, size=9, sha256="")) for path in paths]
    [True, True, False, False]
    """
    if record.path.startswith("records/"):
        return False
    return record.path.startswith((f"{CHECKPOINTS}/", "data/")) or record.path.endswith(".parquet")


def files_to_prune(folder: Path, manifest: Manifest) -> list[Path]:
    """Return the files that pruning removes: all checkpoints, and outputs above 1 MiB; none where that is little."""
    files = [path for path in (folder / CHECKPOINTS).rglob("*") if path.is_file()]
    if sum(path.stat().st_size for path in files) <= SMALL_BYTES:
        files = []
    for record in manifest.files:
        path = folder / record.path
        if is_prunable(record) and record.size > SMALL_BYTES and path.is_file() and path not in files:
            files.append(path)
    return files


def collect(base: Path, found: Sequence[Artifact]) -> Iterator[tuple[Artifact, str | None]]:
    """Prune and remove what the survey says; yield each with None, or with why it was left alone.

    Raises NanochatError while a run is alive here: what it will need next is not known. One that serves needs nothing
    but its model, so it does not count.
    """
    if living := run_lock.living(base).keys() - serving_record.flow_runs(base):
        raise NanochatError(
            f"{len(living)} run{'s are' if len(living) > 1 else ' is'} alive on this node: wait for the end, or cancel "
            "first. Without --delete, nothing is touched."
        )
    for artifact in found:
        if artifact.action != "keep":
            yield artifact, dispose_of(artifact)


def dispose_of(artifact: Artifact) -> str | None:
    """Carry out the action while holding the folder's lock; return why not, where somebody else holds it."""
    with locks.held_if_free(artifact.folder / LOCK) as is_free:
        if not is_free:
            return "in use by now"
        manifest = artifacts.read_manifest(artifact.folder)
        if artifact.action == "remove" and manifest is None:
            shutil.rmtree(artifact.folder)
        elif artifact.action == "prune" and manifest is not None:
            prune(artifact.folder, manifest)
        else:
            return "changed since it was looked at"
    return None


def prune(folder: Path, manifest: Manifest) -> None:
    """Remove the big files. The manifest says so first: were this to stop half-way, the stage would still be done."""
    gone = {path.relative_to(folder).as_posix() for path in files_to_prune(folder, manifest)}
    files = [record.model_copy(update={"pruned": record.pruned or record.path in gone}) for record in manifest.files]
    artifacts.write_json(folder / "manifest.json", manifest.model_copy(update={"files": files}).model_dump())
    for name in sorted(gone):
        (folder / name).unlink(missing_ok=True)
    if any(name.startswith(f"{CHECKPOINTS}/") for name in gone):
        shutil.rmtree(folder / CHECKPOINTS)
