"""Text that is not on the Hub, written as parquet shards: a folder of the user's own, or the built-in text. Torch-free.

Documents are put in an order that only the seed and the texts decide; those that come first are the validation shard.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from nanochat_core.data import local_corpus
from nanochat_core.data.shards import SHARDS, write_shard
from nanochat_core.data.text_files import find_text_files, read_texts
from nanochat_core.errors import DataError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import DownloadSpec

SHARD_CHARACTERS = 50_000_000
VALIDATION_SHARE = 0.05  # of the documents, but no more than
MAX_VALIDATION_DOCUMENTS = 20_000


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


def path_texts(spec: DownloadSpec, metrics: MetricsWriter) -> Iterator[str]:
    if not spec.path:
        raise DataError("The source 'path' needs a folder: set download.path.")
    files = find_text_files(Path(spec.path).expanduser())
    for done, path in enumerate(files, start=1):
        yield from read_texts(path)
        metrics.write(done, total_steps=len(files), progress="files read")


def local_texts(spec: DownloadSpec, metrics: MetricsWriter) -> list[str]:
    texts: list[str] = []
    for corpus in local_corpus.collect(spec.local_characters, spec.seed):
        metrics.write(corpus.characters, total_steps=spec.local_characters, progress="characters collected")
        texts = corpus.documents
    return texts
