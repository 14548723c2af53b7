"""The download stage: pretraining text as parquet shards, from the Hub, a folder, or this installation. Torch-free.

`python -m nanochat_core.data.download FOLDER/spec.json`. In: params DownloadSpec. Out: shards/*.parquet and index.json
(`data/shards.py` reads them). The validation shard is the data set's last on the Hub; of other text it is the documents
that come first in an order that the seed decides.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import StageFolder, run_stage, write_json
from nanochat_core.data.hub import HubDataset, HubFile
from nanochat_core.data.own_text import local_texts, path_texts, write_text_shards
from nanochat_core.data.shards import INDEX_NAME, SHARDS, check_parquet, count_text
from nanochat_core.errors import DataError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import DownloadSpec, parse_params


def work(folder: StageFolder) -> None:
    """Fetch or write the shards, check each, and write index.json and the result."""
    spec = parse_params(DownloadSpec, folder.request.params)
    (folder.path / SHARDS).mkdir(exist_ok=True)
    with contextlib.closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        if spec.source == "hub":
            train, validation = fetch_shards(spec, folder.path, metrics)
        else:
            texts = path_texts(spec, metrics) if spec.source == "path" else local_texts(spec, metrics)
            train, validation = write_text_shards(folder.path, texts, spec.seed)
    index = _index(spec, folder.path, train, validation)
    write_json(folder.path / INDEX_NAME, index)
    sizes = {
        f"{split}_{what}": index[what][split]
        for what in ("documents", "characters")
        for split in ("train", "validation")
    }
    folder.write_result(
        {"train_shards": len(train), **sizes}, [*train, validation, INDEX_NAME], {"source": index["source"]}
    )


def fetch_shards(spec: DownloadSpec, folder: Path, metrics: MetricsWriter) -> tuple[list[str], str]:
    """Download the first `train_shards` shards and the last one; return their names relative to `folder`.

    Raises DataError where the data set has too few shards, a file is corrupt, or the Hub cannot be reached.
    """
    dataset = HubDataset(spec.dataset, spec.revision)
    shards = [file for file in dataset.files() if file.path.endswith(".parquet")]
    if len(shards) < 2:
        raise DataError(
            f"{spec.dataset} has {len(shards)} parquet files, expected at least 2: "
            "the last is for validation. Check download.dataset."
        )
    wanted = spec.train_shards or len(shards) - 1
    if wanted > len(shards) - 1:
        raise DataError(
            f"download.train_shards is {wanted}, but {spec.dataset} has {len(shards) - 1} besides the last, "
            "which is for validation: set it lower."
        )
    chosen = [*shards[:wanted], shards[-1]]
    names = {file: f"{SHARDS}/{file.path.replace('/', '_')}" for file in chosen}
    _fetch_all(dataset, {file: folder / name for file, name in names.items()}, spec.num_workers, metrics)
    return [names[file] for file in chosen[:-1]], names[chosen[-1]]


def _fetch_all(dataset: HubDataset, targets: dict[HubFile, Path], num_workers: int, metrics: MetricsWriter) -> None:
    """Fetch in parallel; the first failure cancels what has not begun."""

    def fetch(file: HubFile) -> None:
        dataset.fetch(file, targets[file])
        check_parquet(targets[file])

    with ThreadPoolExecutor(num_workers) as pool:
        jobs = [pool.submit(fetch, file) for file in targets]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                metrics.write(done, total_steps=len(jobs), progress="shards downloaded")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _index(spec: DownloadSpec, folder: Path, train: list[str], validation: str) -> dict[str, Any]:
    """Return index.json; counting reads every page of every shard, so a corrupt one is found here."""
    with ThreadPoolExecutor(spec.num_workers) as pool:
        counts = list(pool.map(lambda name: count_text(folder / name), [*train, validation]))
    sizes = {
        what: {"train": sum(count[field] for count in counts[:-1]), "validation": counts[-1][field]}
        for field, what in enumerate(("documents", "characters"))
    }
    source = f"{spec.dataset}@{spec.revision}" if spec.source == "hub" else spec.source
    return {"source": source, "train": train, "validation": validation, **sizes}


if __name__ == "__main__":
    run_stage(work)
