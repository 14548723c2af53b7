"""The folder of one stage run: what a stage is asked (`spec.json`), what it answers (`result.json` or `exit.json`), and
the manifest that makes it whole.

    artifacts/<stage>/<fingerprint[:16]>/{spec.json, metrics.jsonl, log.txt, checkpoints/, result.json, manifest.json}

`manifest.json` is written last, by rename: a folder without one is unfinished work that the next run continues. Its
`digest` covers the declared outputs and nothing else, so identical bytes give identical digests.
"""

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanochat_core.errors import EXIT_BAD_INPUT, ArtifactError, NanochatError

SCHEMA = 1
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
HASH_ALWAYS_BYTES = 16 << 20  # files up to this size are hashed at each verification, larger ones on demand


class FileRecord(BaseModel):
    """One declared output. `pruned` means: removed on purpose to free the disk; the stage still counts as done."""

    model_config = ConfigDict(frozen=True)
    path: str = Field(description="relative to the artifact folder, with forward slashes")
    size: int = Field(description="bytes")
    sha256: str
    pruned: bool = False


class Manifest(BaseModel):
    """What a finished stage made, from what, and by which code."""

    model_config = ConfigDict(frozen=True)
    schema_version: int = SCHEMA
    stage: str
    version: int
    fingerprint: str
    params: dict[str, Any]
    inputs: dict[str, str] = Field(description="input name -> manifest digest")
    files: list[FileRecord]
    digest: str
    metrics: dict[str, float | int | str | None] = Field(description="headline numbers of result.json")
    git_commit: str | None = None
    mlflow_run_id: str | None = None
    created: float = Field(description="seconds since the epoch")

    @property
    def is_pruned(self) -> bool:
        """Tell whether some of the declared outputs were removed on purpose."""
        return any(record.pruned for record in self.files)


class StageRequest(BaseModel):
    """`spec.json`: all that a stage process is told. Inputs are folders relative to the `artifacts/` folder."""

    model_config = ConfigDict(frozen=True)
    stage: str
    version: int
    fingerprint: str
    params: dict[str, Any]
    inputs: dict[str, str] = {}
    input_digests: dict[str, str] = {}


class StageFolder:
    """An artifact folder opened by the stage that works in it (or by whoever reads its results)."""

    def __init__(self, path: Path) -> None:
        """Open the folder at `path`; raises ArtifactError where its spec.json cannot be read."""
        self.path = path.absolute()
        try:
            self.request = StageRequest.model_validate(read_json(self.path / "spec.json"))
        except ValidationError as error:
            fields = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors())
            raise ArtifactError(f"{self.path}/spec.json is no request of a stage (see {fields}).") from None

    @property
    def artifacts_root(self) -> Path:
        """The `artifacts/` folder: this folder's grandparent."""
        return self.path.parent.parent

    def input(self, name: str) -> Path:
        """Return the folder of the input called `name`; raises ArtifactError where the request does not have it."""
        if name not in self.request.inputs:
            raise ArtifactError(f"{self.path}/spec.json names no input {name!r}; run the stage through its flow.")
        return self.artifacts_root / self.request.inputs[name]

    def write_result(
        self, metrics: dict[str, Any], outputs: Sequence[str], details: dict[str, Any] | None = None
    ) -> None:
        """Write `result.json`: headline `metrics` (flat), declared `outputs` (relative paths), and `details`."""
        write_json(self.path / "result.json", {"metrics": metrics, "outputs": list(outputs), "details": details or {}})

    def read_result(self) -> dict[str, Any]:
        return read_json(self.path / "result.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises ArtifactError, naming the file, where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot read {path}: {error}. Run its stage again.") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either absent, old or whole: temporary name, fsync, rename."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def write_bytes(path: Path, data: bytes) -> None:
    """Like `write_json`, for bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint_of(stage: str, version: int, params: dict[str, Any], input_digests: dict[str, str]) -> str:
    """Return the SHA-256 that names a stage run: its output-changing parameters and its inputs' content digests."""
    value = {"schema": SCHEMA, "stage": stage, "version": version, "params": params, "inputs": input_digests}
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of(files: Sequence[FileRecord]) -> str:
    """Return the content digest: SHA-256 over (path, sha256) of the declared outputs, sorted by path."""
    pairs = sorted((record.path, record.sha256) for record in files)
    return hashlib.sha256(canonical_json(pairs).encode()).hexdigest()


def finish(folder: StageFolder, *, git_commit: str | None = None, mlflow_run_id: str | None = None) -> Manifest:
    """Hash the declared outputs of a folder that has a result, write its manifest last, and return it."""
    result = folder.read_result()
    files = []
    for name in sorted(result["outputs"]):
        path = folder.path / name
        if not path.is_file():
            raise ArtifactError(f"{folder.path} declares the output {name}, which does not exist. Run the stage again.")
        files.append(FileRecord(path=name, size=path.stat().st_size, sha256=sha256_of(path)))
    request = folder.request
    manifest = Manifest(
        stage=request.stage,
        version=request.version,
        fingerprint=request.fingerprint,
        params=request.params,
        inputs=request.input_digests,
        files=files,
        digest=digest_of(files),
        metrics=result["metrics"],
        git_commit=git_commit,
        mlflow_run_id=mlflow_run_id,
        created=time.time(),
    )
    write_json(folder.path / "manifest.json", manifest.model_dump())
    return manifest


def read_manifest(path: Path) -> Manifest | None:
    """Return the folder's manifest, or None where it has none that can be read (then the stage is not finished)."""
    try:
        return Manifest.model_validate_json((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def damaged_files(path: Path, manifest: Manifest, *, deep: bool = False) -> list[str]:
    """Return what is wrong with the declared outputs, one line each; an empty list means that all is there.

    Sizes are always compared, and the hashes of files up to 16 MiB; with `deep`, every hash.
    """
    problems = []
    for record in manifest.files:
        if record.pruned:
            continue
        file = path / record.path
        if not file.is_file():
            problems.append(f"{record.path} is missing")
        elif file.stat().st_size != record.size:
            problems.append(f"{record.path} has {file.stat().st_size} bytes, {record.size} were written")
        elif (deep or record.size <= HASH_ALWAYS_BYTES) and sha256_of(file) != record.sha256:
            problems.append(f"{record.path} has other bytes than were written")
    return problems


@contextlib.contextmanager
def reported_exit(folder: Path, *, is_main: bool = True) -> Iterator[None]:
    """Turn an exception into the stage's last word: `exit.json {code, message}` and a one-line message on stderr.

    torchrun turns each rank's exit status into 1, so the word travels in the file. An unexpected exception leaves no
    file, and its traceback: that is a crash. A full disk is no crash, wherever it is met.
    """
    with contextlib.suppress(OSError):
        if is_main:
            (folder / "exit.json").unlink(missing_ok=True)
    try:
        yield
    except NanochatError as error:
        _exit(folder, error.exit_code, str(error), is_main)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _exit(folder, EXIT_BAD_INPUT, f"The disk is full: {error}. Free space for {folder} and run again.", is_main)


def _exit(folder: Path, code: int, message: str, is_main: bool) -> NoReturn:
    """Leave `message`, in one line, in exit.json and on stderr, as far as the disk has room for it, and exit."""
    line = " ".join(message.split())
    with contextlib.suppress(OSError):
        if is_main or not (folder / "exit.json").exists():
            write_json(folder / "exit.json", {"code": code, "message": line})
    with contextlib.suppress(OSError):
        print(f"error: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def run_stage(work: Callable[[StageFolder], None], *, is_main: bool = True) -> None:
    """Entry point of a stage module: `python -m <module> <spec.json>` opens the folder and calls `work` on it."""
    if len(sys.argv) != 2 or not sys.argv[1].endswith("spec.json"):
        raise SystemExit(f"usage: {sys.argv[0]} ARTIFACT_FOLDER/spec.json")
    folder = Path(sys.argv[1]).absolute().parent
    with reported_exit(folder, is_main=is_main):
        work(StageFolder(folder))
