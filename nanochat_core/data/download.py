"""The download stage: pretraining text as parquet shards, from the Hub, a folder, or this installation. Torch-free.

`python -m nanochat_core.data.download FOLDER/spec.json`. In: params DownloadSpec. Out: shards/*.parquet and index.json
(`data/shards.py` reads them). The validation shard is the data set's last on the Hub; of other text it is the documents
that come first in an order that the seed decides.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import StageFolder, run_stage, write_json
from nanochat_core.data import local_corpus
from nanochat_core.data.hub import HubDataset, HubFile
from nanochat_core.data.shards import INDEX_NAME, check_parquet, count_text, write_shard
from nanochat_core.data.text_files import find_text_files, read_texts
from nanochat_core.errors import DataError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import DownloadSpec, parse_params

SHARD_CHARACTERS = 50_000_000  # of the shards written here
VALIDATION_SHARE = 0.05  # of the documents, but no more than
MAX_VALIDATION_DOCUMENTS = 20_000
SHARDS = "shards"


def work(folder: StageFolder) -> None:
    """Fetch or write the shards, check each, and write index.json and the result."""
    spec = parse_params(DownloadSpec, folder.request.params)
    (folder.path / SHARDS).mkdir(exist_ok=True)
    with contextlib.closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        if spec.source == "hub":
            train, validation = fetch_shards(spec, folder.path, metrics)
        else:
            texts = _path_texts(spec, metrics) if spec.source == "path" else _local_texts(spec, metrics)
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


def write_text_shards(folder: Path, texts: Iterable[str], seed: int) -> tuple[list[str], str]:
    """Write documents as shards, in an order that only the seed and the texts decide; return the shards' names.

    All documents are held in memory. Equal documents are kept once, so none is in both training and validation. Raises
    DataError where there are fewer than two.
    """
    ordered = _in_seeded_order(texts, seed)
    if len(ordered) < 2:
        raise DataError(
            f"The data holds {len(ordered)} different documents, expected at least 2 (one is for validation): add text."
        )
    held_out = min(max(1, int(len(ordered) * VALIDATION_SHARE)), MAX_VALIDATION_DOCUMENTS)
    names: list[str] = []
    for texts_of_shard in [*_shards_of(ordered[held_out:]), ordered[:held_out]]:
        names.append(f"{SHARDS}/shard_{len(names):05d}.parquet")
        write_shard(folder / names[-1], texts_of_shard)
    return names[:-1], names[-1]


def _in_seeded_order(texts: Iterable[str], seed: int) -> list[str]:
    """Return the different texts, sorted by a hash of seed and text: a shuffle that does not depend on their order."""
    keyed = {hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=16).digest(): text for text in texts}
    return [keyed[key] for key in sorted(keyed)]


def _shards_of(texts: list[str]) -> Iterator[list[str]]:
    shard: list[str] = []
    characters = 0
    for text in texts:
        shard.append(text)
        characters += len(text)
        if characters >= SHARD_CHARACTERS:
            yield shard
            shard, characters = [], 0
    if shard:
        yield shard


def _path_texts(spec: DownloadSpec, metrics: MetricsWriter) -> Iterator[str]:
    if not spec.path:
        raise DataError("The source 'path' needs a folder: set download.path.")
    files = find_text_files(Path(spec.path).expanduser())
    for done, path in enumerate(files, start=1):
        yield from read_texts(path)
        metrics.write(done, total_steps=len(files), progress="files read")


def _local_texts(spec: DownloadSpec, metrics: MetricsWriter) -> list[str]:
    texts: list[str] = []
    for corpus in local_corpus.collect(spec.local_characters, spec.seed):
        metrics.write(corpus.characters, total_steps=spec.local_characters, progress="characters collected")
        texts = corpus.documents
    return texts


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
