"""`nanochat gc` and the caches: tokenised shards and files of the Hub, which are made again where they are missing.

    $NANOCHAT_BASE_DIR/tokens/    a file stays while a kept pretraining reads its text with its tokenizer
    $NANOCHAT_BASE_DIR/hub/       a file stays while an artifact links to it, for it costs nothing then

What is younger than the rules' days stays as well: it may belong to work that goes on.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.gc import DAY, Artifact, Rules
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import NanochatError


@dataclass(frozen=True)
class Cache:
    """One folder of a cache. `unneeded` are the files that may go; `size` and `freed` in bytes."""

    folder: Path
    size: int
    unneeded: tuple[Path, ...]
    freed: int

    @property
    def name(self) -> str:
        """The folder's name and that of the cache, for example `tokens/v1-0123456789abcdef`."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def survey_caches(base: Path, found: Sequence[Artifact], rules: Rules) -> list[Cache]:
    """Return every folder of both caches with what may go of it, where `found` is the survey of the artifacts.

    What only artifacts hold that are to be pruned is not told before they are.
    """
    needed = set(needed_tokens(base, found))
    caches = []
    for root, is_needed in ((paths.tokens_dir(base), needed.__contains__), (paths.hub_dir(base), is_linked)):
        for folder in sorted(path for path in root.glob("*") if path.is_dir()):
            files = files_in(folder)
            old = [path for path, file in files.items() if time.time() - file.st_mtime > rules.keep_days * DAY]
            unneeded = tuple(path for path in old if not is_needed(owner_of(path)))
            size, freed = (sum(files[path].st_size for path in some) for some in (files, unneeded))
            caches.append(Cache(folder, size, unneeded, freed))
    return caches


def files_in(folder: Path) -> dict[Path, os.stat_result]:
    """Return the files of a folder, without those below it; a run may be at work there."""
    files = {}
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            if path.is_file():
                files[path] = path.stat()
    return files


def needed_tokens(base: Path, found: Sequence[Artifact]) -> Iterator[Path]:
    """Yield the token files of every pretraining that stays whole."""
    from nanochat_core.data.shards import TextShards
    from nanochat_core.data.token_shards import token_shard_path

    for artifact in found:
        if artifact.stage == "pretrain" and artifact.action == "keep" and artifact.why != "pruned":
            with suppress(NanochatError, OSError):  # its inputs are gone: it is done, and reads them no more
                folder = StageFolder(artifact.folder)
                tokenizer_hash = artifacts.sha256_of(folder.input("tokenizer") / "tokenizer.json")
                for sha256 in TextShards.open(folder.input("text")).sha256.values():
                    yield token_shard_path(sha256, tokenizer_hash, paths.tokens_dir(base))


def owner_of(path: Path) -> Path:
    """Return the file that this one goes with: itself, or what it is a record, a lock or the beginning of.

    >>> [owner_of(Path(name)).name for name in ("s.parquet", "s.parquet.json", ".s.parquet.json.lock")]
    ['s.parquet', 's.parquet', 's.parquet']
    """
    name = path.name
    if name.startswith("."):
        name = name[1:].rpartition(".")[0] or name
    return path.with_name(name.removesuffix(".json") if name.endswith(".parquet.json") else name)


def is_linked(path: Path) -> bool:
    """Tell whether the file has another name somewhere: in the folder of a stage."""
    return path.exists() and path.stat().st_nlink > 1


def sweep(cache: Cache) -> None:
    """Remove what nobody needs. Only while no run is alive (flows/gc.py, `collect`)."""
    for path in cache.unneeded:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # something is left
        cache.folder.rmdir()
