"""The download stage: pretraining text as parquet shards, from the Hub, a folder, or this installation. Torch-free.

`python -m nanochat_core.data.download FOLDER/spec.json`. In: params DownloadSpec. Out: shards/*.parquet and index.json
(`data/shards.py` reads them). The validation shard is the data set's last on the Hub; of other text it is the documents
that come first in an order that the seed decides.
"""

import contextlib
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nanochat_core import paths
from nanochat_core.artifacts import StageFolder, run_stage, sha256_of, write_json
from nanochat_core.data.own.own_text import OwnTextCounts, local_texts, path_texts, write_text_shards
from nanochat_core.data.remote.hub_shards import StoredShard, WantedShard, fetch_shard, stored_shard, wanted_shards
from nanochat_core.data.remote.hub_store import place
from nanochat_core.data.shards import INDEX_NAME, SHARDS, TextCounts, TextShards, count_text
from nanochat_core.errors import DataError, Unreachable
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import DownloadSpec, parse_params

COUNTS = tuple(field.name for field in fields(TextCounts))
NAMED_SHARDS = 5  # in an error message
FAILURES_OF_A_HUB_THAT_IS_GONE = 3  # one after the other, or as many as there are workers


def work(folder: StageFolder) -> None:
    """Fetch or write the shards, check each, and write index.json and the result."""
    spec = parse_params(DownloadSpec, folder.request.params)
    (folder.path / SHARDS).mkdir(exist_ok=True)
    with contextlib.closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        make = _hub_text if spec.source == "hub" else _own_text
        shards, found, details = make(spec, folder, metrics)
    index = _index(details["source"], shards)
    write_json(folder.path / INDEX_NAME, index)
    TextShards.open(folder.path)  # refuses a validation shard that is among the training shards
    sizes = {f"{split}_{what}": index[what][split] for what in COUNTS for split in ("train", "validation")}
    folder.write_result({"train_shards": len(index["train"]), **sizes, **found}, [*shards, INDEX_NAME], details)


def _hub_text(
    spec: DownloadSpec, folder: StageFolder, metrics: MetricsWriter
) -> tuple[dict[str, StoredShard], dict[str, int], dict[str, str]]:
    """Return the shards by their names in `folder`, the validation shard last; counts; and where they come from."""
    base = folder.artifacts_root.parent
    wanted = wanted_shards(spec, base)
    shards = {f"{SHARDS}/{shard.name}": stored for shard, stored in fetch_all(wanted, base, spec.num_workers, metrics)}
    for name, stored in shards.items():
        place(stored.path, folder.path / name)
    return shards, {}, {"source": f"{spec.dataset}@{spec.revision}", "commit": wanted[0].commit}


def _own_text(
    spec: DownloadSpec, folder: StageFolder, metrics: MetricsWriter
) -> tuple[dict[str, StoredShard], dict[str, int], dict[str, str]]:
    """Like `_hub_text`; counting reads every page of what was written."""
    counts = OwnTextCounts()
    is_path = spec.source == "path"
    texts = path_texts(spec, folder.path, metrics, counts) if is_path else local_texts(spec, metrics)
    train, validation = write_text_shards(folder.path, texts, spec.seed, counts)

    def read(name: str) -> StoredShard:
        path = folder.path / name
        return StoredShard(path, sha256_of(path), count_text(path))

    with ThreadPoolExecutor(spec.num_workers) as pool:
        names = [*train, validation]
        shards = dict(zip(names, pool.map(read, names), strict=True))
    return shards, counts.metrics() if is_path else {}, {"source": spec.source}


def fetch_all(
    wanted: Sequence[WantedShard], base: Path, num_workers: int, metrics: MetricsWriter
) -> list[tuple[WantedShard, StoredShard]]:
    """Return every shard with its place in the store, fetched in parallel.

    All are tried even where one fails, so that another run needs only the bad ones; but when the Hub was out of reach
    so often in a row that it must be gone, the rest is left. Raises DataError that names what failed.
    """
    check_room(wanted, base)
    stored: dict[WantedShard, StoredShard] = {}
    failed: dict[WantedShard, DataError] = {}
    unreachable_in_a_row = 0
    is_gone = threading.Event()

    def fetch(shard: WantedShard) -> StoredShard | DataError | None:
        try:
            return None if is_gone.is_set() else fetch_shard(shard, base)
        except DataError as error:
            return error

    with ThreadPoolExecutor(num_workers) as pool:
        jobs = {pool.submit(fetch, shard): shard for shard in wanted}
        for job in as_completed(jobs):
            outcome = job.result()
            if isinstance(outcome, StoredShard):
                stored[jobs[job]] = outcome
                metrics.write(len(stored), total_steps=len(jobs), progress="shards downloaded")
            elif outcome:
                failed[jobs[job]] = outcome
            unreachable_in_a_row = unreachable_in_a_row + 1 if isinstance(outcome, Unreachable) else 0
            if unreachable_in_a_row >= max(num_workers, FAILURES_OF_A_HUB_THAT_IS_GONE):
                is_gone.set()
    if failed:
        raise _failure(wanted, failed, kept=len(stored))
    return [(shard, stored[shard]) for shard in wanted]


def _failure(wanted: Sequence[WantedShard], failed: dict[WantedShard, DataError], *, kept: int) -> DataError:
    """Return the error that says why the first shard failed, in the order of `wanted`, and which others did."""
    bad = [shard for shard in wanted if shard in failed]
    first = failed[bad[0]]
    names = ", ".join(shard.name for shard in bad[:NAMED_SHARDS]) + (", …" if len(bad) > NAMED_SHARDS else "")
    untried = len(wanted) - kept - len(bad)
    left = f", {untried} were not tried" if untried else ""
    again = f"{kept} are there and stay" if kept else "none is there yet"
    return type(first)(f"{len(bad)} of {len(wanted)} shards failed ({names}){left}, {again}. {bad[0].name}: {first}")


def check_room(wanted: Sequence[WantedShard], base: Path) -> None:
    """Raise DataError, before anything is fetched, where the disk has no room for what is missing."""
    missing = sum(shard.size or 0 for shard in wanted if stored_shard(shard, base) is None)
    store = paths.hub_dir(base)
    store.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store).free
    if missing > free:
        raise DataError(
            f"The missing shards need {missing / 1e6:,.1f} MB, and {store} has room for {free / 1e6:,.1f} MB: free "
            "some disk, set download.train_shards lower, or point NANOCHAT_BASE_DIR elsewhere."
        )


def _index(source: str, shards: dict[str, StoredShard]) -> dict[str, Any]:
    """Return index.json: training shards in order, the validation shard, hashes, and counts by split and by shard."""
    *train, validation = shards
    counts = {name: asdict(shard.counts) for name, shard in shards.items()}
    return {
        "source": source,
        "train": train,
        "validation": validation,
        **{
            what: {"train": sum(counts[name][what] for name in train), "validation": counts[validation][what]}
            for what in COUNTS
        },
        "sha256": {name: shard.sha256 for name, shard in shards.items()},
        "shards": counts,
    }


if __name__ == "__main__":
    run_stage(work)
