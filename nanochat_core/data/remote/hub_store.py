"""Files of the Hugging Face Hub on disk, shared by all runs of a base folder. Torch-free.

    $NANOCHAT_BASE_DIR/hub/<owner>--<name>/<sha256[:16]>-<file name>    whole and checked
                                          /.<the same>.part, .lock      on its way
                                          /listings/<commit>.json       the data set's files
                                          /revisions/<revision>.json    the commit that it last was

A file is named by its content, so a new commit that changes other files downloads nothing again.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nanochat_core.artifacts import read_json, sha256_of, write_json
from nanochat_core.errors import ArtifactError

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH_DIGITS = 16


@dataclass(frozen=True)
class HubFile:
    """One file of a data set at a commit. `size` in bytes; `sha256` is known for large files only."""

    commit: str
    path: str
    size: int | None
    sha256: str | None

    @property
    def flat_name(self) -> str:
        """The path without folders.

        >>> HubFile("c0ffee", "data/train-0.parquet", 10, None).flat_name
        'data_train-0.parquet'
        """
        return self.path.replace("/", "_")


def folder_of(store: Path, repository: str) -> Path:
    """Return the data set's folder in the store."""
    return store / repository.replace("/", "--")


def place_of(folder: Path, file: HubFile) -> Path:
    """Return where `file` lies, or will, in its data set's folder."""
    return folder / f"{(file.sha256 or file.commit)[:HASH_DIGITS]}-{file.flat_name}"


def difference(path: Path, file: HubFile) -> str | None:
    """Return how the bytes at `path` differ from what the Hub says of `file`, or None."""
    if not path.is_file():
        return "is not there"
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes, the Hub says {file.size:,}"
    if file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
        return f"has another SHA-256 ({found[:HASH_DIGITS]}…) than the Hub says ({file.sha256[:HASH_DIGITS]}…)"
    return None


def place(source: Path, target: Path) -> None:
    """Make `target` a whole, real file with the bytes of `source`: a hard link where both are on one disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # left over after a full disk, and where both are links to one file already


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keep all other threads and processes that want to make `path` waiting; the kernel frees the lock of the dead."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def save_listing(folder: Path, revision: str, files: list[HubFile]) -> None:
    """Remember a data set's `files`, all of one commit, and that `revision` is that commit."""
    if not files:
        return
    rows = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / "listings"):
        _write(_listing_of(folder, files[0].commit), {"files": rows})
        _write(_revision_of(folder, revision), {"commit": files[0].commit})


def load_listing(folder: Path, revision: str) -> list[HubFile] | None:
    """Return the files that the data set had when `revision` was last listed, or None where it never was."""
    with contextlib.suppress(ArtifactError, KeyError, TypeError):
        is_commit = COMMIT.fullmatch(revision)
        commit = revision if is_commit else read_json(_revision_of(folder, revision))["commit"]
        return [HubFile(commit, **row) for row in read_json(_listing_of(folder, commit))["files"]]
    return None


def _listing_of(folder: Path, commit: str) -> Path:
    return folder / "listings" / f"{commit}.json"


def _revision_of(folder: Path, revision: str) -> Path:
    return folder / "revisions" / f"{quote(revision, safe='')}.json"


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
