"""Which models are being served on this node by flow runs: a folder for each, whose lock is held while it lasts.

$NANOCHAT_BASE_DIR/serving/runs/<time>-<port>-<flow run>/
    run.json       who serves what (ServingRecord)
    spec.json      what the server was told (nanochat_core/serve_spec.py)
    status.json    what it says of itself
    log.txt        what it printed
    .lock          held by the flow's process and the server's guard
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from flows import locks
from flows.progress import warn
from nanochat_core import artifacts
from nanochat_core.errors import ArtifactError

KEPT = 10  # folders of servers that have ended
LOCK, RECORD, STATUS = ".lock", "run.json", "status.json"


class ServingRecord(BaseModel):
    """One server of a flow run. `model` is the reference that was asked for; folders are absolute."""

    flow_run_id: str
    flow_run_name: str
    process_id: int  # of the flow run
    model: str
    model_folder: Path
    tokenizer_folder: Path
    port: int
    reserves_gpu: bool = False
    started: float  # seconds since the epoch


class ServerStatus(BaseModel):
    """What a server says of itself in its status file."""

    state: str  # loading, ready, draining, stopped, replaced, failed
    url: str | None = None
    pid: int | None = None
    error: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what the file says, or None where there is none yet."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None


def runs_dir(base: Path) -> Path:
    return base / "serving" / "runs"


@contextlib.contextmanager
def recorded(base: Path, record: ServingRecord) -> Iterator[tuple[Path, int]]:
    """Make the folder of a server and hold its lock for the length of the block; yields both. Old folders go."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{record.port}-{record.flow_run_id[:8]}"
    folder = runs_dir(base) / name
    folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the servers' control sockets are there, too
    folder.mkdir(parents=True, exist_ok=True)
    with locks.hold(folder / LOCK, on_wait=warn) as descriptor:
        artifacts.write_json(folder / RECORD, record.model_dump(mode="json"))
        tidy(base)
        yield folder, descriptor


def living(base: Path) -> dict[Path, ServingRecord]:
    """Return the servers that flow runs of this node keep at this moment, by their folders, the oldest first."""
    found = {}
    for folder in sorted(runs_dir(base).glob("*")):
        record = read(folder)
        if record is not None and (folder / LOCK).exists() and not locks.is_free(folder / LOCK):
            found[folder] = record
    return found


def served_folders(base: Path) -> Iterator[Path]:
    """Yield the folders of the models that are served at this moment, and of their tokenizers.

    Those of `nanochat serve` (flows/serve_command.py) count while the control socket of their port is there.
    """
    for record in living(base).values():
        yield from (record.model_folder, record.tokenizer_folder)
    folder = base / "serving"
    ports = {path.stem for path in folder.glob("*.sock")}
    for path in folder.glob("*.spec.json"):
        name = path.name.removesuffix(".spec.json")
        if name in ports or (name == "any" and ports):
            with contextlib.suppress(ArtifactError, KeyError):
                spec = artifacts.read_json(path)
                yield from (Path(spec["model_folder"]), Path(spec["tokenizer_folder"]))


def flow_runs(base: Path) -> frozenset[str]:
    """Return the ids of the flow runs that serve at this moment."""
    return frozenset(record.flow_run_id for record in living(base).values())


def read(folder: Path) -> ServingRecord | None:
    """Return the record in a folder, or None where there is none that can be read."""
    try:
        return ServingRecord.model_validate(artifacts.read_json(folder / RECORD))
    except (ArtifactError, ValidationError):
        return None


def successor(base: Path, own: ServingRecord, *, seconds: float) -> ServingRecord | None:
    """Return who serves on this port after `own`; None where no flow run says so within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        later = [record for record in living(base).values() if record.started > own.started]
        for record in sorted(later, key=lambda record: record.started):
            if record.port == own.port and record.flow_run_id != own.flow_run_id:
                return record
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)


def tidy(base: Path) -> None:
    """Remove the folders of servers that have ended, but the newest KEPT."""
    alive = living(base)
    ended = sorted(folder for folder in runs_dir(base).glob("*") if folder not in alive and (folder / RECORD).exists())
    for folder in ended[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
