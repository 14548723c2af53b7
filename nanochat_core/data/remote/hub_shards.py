"""The text shards of a data set on the Hub, one by one: which are wanted, and one fetched and checked. Torch-free.

Each shard is a unit of work for a thread, a process or another machine that shares the base folder: arguments and
results are plain values. `data/download.py` puts the shards of one run together. Beside each shard in the store
(`hub_store.py`) lies a record <shard>.json of what was counted when it was checked; while the file is as it was
then, that is not repeated.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat_core import paths
from nanochat_core.artifacts import read_json, sha256_of, write_json
from nanochat_core.data.remote.hub import HubDataset
from nanochat_core.data.remote.hub_store import HubFile, folder_of, only_one, place_of
from nanochat_core.data.shards import TextCounts, count_text
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.specs import DownloadSpec


@dataclass(frozen=True)
class WantedShard:
    """A shard as the Hub describes it. All of one call of `wanted_shards` are of one commit."""

    repository: str
    commit: str
    path: str
    size: int | None
    sha256: str | None
    is_validation: bool

    @property
    def file(self) -> HubFile:
        return HubFile(self.commit, self.path, self.size, self.sha256)

    @property
    def name(self) -> str:
        """The name of its file in a stage's folder."""
        return self.file.flat_name


@dataclass(frozen=True)
class StoredShard:
    """A shard on disk that was opened, read to the end and counted."""

    path: Path
    sha256: str
    counts: TextCounts


def wanted_shards(spec: DownloadSpec, base: Path) -> list[WantedShard]:
    """Return the data set's first `train_shards` parquet files, in the order of their names, and its last.

    That is the validation shard. Which is the last follows from the data set's own list, never from what is on this
    disk. Raises DataError where the data set is too small.
    """
    if spec.source != "hub":
        raise DataError(f"The source {spec.source!r} has no shards on the Hub.")
    dataset = HubDataset(spec.dataset, spec.revision, store=paths.hub_dir(base))
    files = [file for file in dataset.files() if file.path.endswith(".parquet")]
    if len(files) < 2:
        raise DataError(
            f"{spec.dataset} has {len(files)} parquet files, expected at least 2: "
            "the last is for validation. Check download.dataset."
        )
    wanted = spec.train_shards or len(files) - 1
    if wanted > len(files) - 1:
        raise DataError(
            f"download.train_shards is {wanted}, but {spec.dataset} has {len(files) - 1} besides the last, "
            "which is for validation: set it lower."
        )
    *train, validation = (*files[:wanted], files[-1])
    if len({file.flat_name for file in (*train, validation)}) <= len(train):
        raise DataError(
            f"{spec.dataset} has several files that would be stored under one name, such as "
            f"{validation.flat_name!r}: take another data set."
        )
    if twins := [file.path for file in train if file.sha256 and file.sha256 == validation.sha256]:
        raise DataError(
            f"{validation.path} of {spec.dataset} is for validation, and {twins[0]} has the same bytes, so it would be "
            "trained on: set download.train_shards lower, or take another data set."
        )
    return [
        WantedShard(spec.dataset, file.commit, file.path, file.size, file.sha256, is_validation=file is validation)
        for file in (*train, validation)
    ]


def fetch_shard(shard: WantedShard, base: Path) -> StoredShard:
    """Return the shard in the store of `base`: what is missing is fetched, what is new is checked and counted.

    It may be called again and by many at once. Raises DataError (Unreachable where waiting may help) in one line.
    """
    if stored := stored_shard(shard, base):
        return stored
    path = HubDataset(shard.repository, shard.commit, store=paths.hub_dir(base)).fetch(shard.file)
    with only_one(_record_of(path)):
        return stored_shard(shard, base) or _check(shard, path)


def _check(shard: WantedShard, path: Path) -> StoredShard:
    """Open the file, read it to the end, and write its record."""
    state, sha256 = _state_of(path), shard.sha256 or sha256_of(path)
    try:
        counts = count_text(path)
    except DataError as error:
        raise DataError(
            f"{shard.path} of {shard.repository} is of no use, and fetching it again would not help, for it has the "
            "size and hash that the Hub announces: check download.dataset and revision, or take fewer train_shards. "
            f"({error})"
        ) from None
    try:
        write_json(_record_of(path), {"state": state, "sha256": sha256, "counts": asdict(counts)})
    except OSError as error:
        raise DataError(f"Cannot store {_record_of(path)}: {error.strerror}. Free some disk.") from None
    return StoredShard(path, sha256, counts)


def stored_shard(shard: WantedShard, base: Path) -> StoredShard | None:
    """Return the shard where the store has it, checked and unchanged since, else None; nothing is read or fetched."""
    path = place_of(folder_of(paths.hub_dir(base), shard.repository), shard.file)
    try:
        record = read_json(_record_of(path))
        if record["state"] != _state_of(path) or shard.sha256 not in (None, record["sha256"]):
            return None
        return StoredShard(path, record["sha256"], TextCounts(**record["counts"]))
    except (ArtifactError, OSError, KeyError, TypeError):
        return None


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _state_of(path: Path) -> list[int]:
    """Return size and time of change: what differs as soon as somebody has written to the file."""
    return [path.stat().st_size, path.stat().st_mtime_ns]
