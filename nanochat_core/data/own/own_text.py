"""Text that is not on the Hub, written as parquet shards: a folder of the user's own, or the built-in text. Torch-free.

Documents are put in an order that only the seed and the texts decide; those that come first are the validation shard.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.data import local_corpus
from nanochat_core.data.own.bad_lines import RECORD_NAME, BadLines
from nanochat_core.data.own.text_files import find_text_files, other_files, read_texts
from nanochat_core.data.shards import NEAR_EMPTY_CHARACTERS, SHARDS, write_shard
from nanochat_core.errors import DataError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import DownloadSpec

SHARD_CHARACTERS = 50_000_000
VALIDATION_SHARE = 0.05  # of the documents, but no more than
MAX_VALIDATION_DOCUMENTS = 20_000


@dataclass
class OwnTextCounts:
    """What was found besides whole, different documents."""

    empty: int = 0  # nothing but blanks, or null: left out
    near_empty: int = 0  # fewer than NEAR_EMPTY_CHARACTERS: kept
    duplicates: int = 0  # equal to an earlier document: left out
    alike: int = 0  # equal to an earlier one but for case and blanks: kept
    bad_lines: int = 0  # could not be read: left out, and listed
    other_files: int = 0  # of kinds that are not read: left alone

    def metrics(self) -> dict[str, int]:
        return {
            "empty_documents_left_out": self.empty,
            "near_empty_documents": self.near_empty,
            "duplicates_left_out": self.duplicates,
            "documents_alike": self.alike,
            "bad_lines": self.bad_lines,
            "files_of_other_kinds": self.other_files,
        }


def write_text_shards(folder: Path, texts: Iterable[str], seed: int, counts: OwnTextCounts) -> tuple[list[str], str]:
    """Write documents as shards, in an order that only the seed and the texts decide; return the shards' names.

    All documents are held in memory, as UTF-8 (strings take up to four times as much). Equal documents are kept once,
    so that none is in both training and validation. Raises DataError where there are fewer than two.
    """
    ordered = _in_seeded_order(_counted(texts, counts), seed, counts)
    if len(ordered) < 2:
        raise DataError(
            f"The data holds {len(ordered)} different documents (and {counts.empty} empty ones), expected at least 2: "
            "one is for validation. Add text."
        )
    held_out = min(max(1, int(len(ordered) * VALIDATION_SHARE)), MAX_VALIDATION_DOCUMENTS)
    names: list[str] = []
    for texts_of_shard in [*_shards_of(ordered[held_out:]), ordered[:held_out]]:
        names.append(f"{SHARDS}/shard_{len(names):05d}.parquet")
        write_shard(folder / names[-1], [text.decode() for text in texts_of_shard])
    return names[:-1], names[-1]


def _counted(texts: Iterable[str], counts: OwnTextCounts) -> Iterator[str]:
    """Yield the documents that are not empty."""
    for text in texts:
        length = len(text.strip())
        counts.empty += not length
        counts.near_empty += 0 < length < NEAR_EMPTY_CHARACTERS
        if length:
            yield text


def _in_seeded_order(texts: Iterable[str], seed: int, counts: OwnTextCounts) -> list[bytes]:
    """Return the different texts in UTF-8, sorted by a hash of seed and text: their order before does not matter."""
    keyed: dict[bytes, bytes] = {}
    plain: set[bytes] = set()
    read = 0
    for text in texts:
        read += 1
        keyed[digest(f"{seed}/{text}")] = text.encode(errors="replace")
        plain.add(digest(without_case_and_blanks(text)))
    counts.duplicates = read - len(keyed)
    counts.alike = len(keyed) - len(plain)
    return [keyed[key] for key in sorted(keyed)]


def digest(text: str) -> bytes:
    """Return 16 bytes that differ for different texts."""
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


def without_case_and_blanks(text: str) -> str:
    """Return what two documents have in common that differ in case and white space only.

    >>> without_case_and_blanks("Two\\n  Words ")
    'two words'
    """
    return " ".join(text.lower().split())


def _shards_of(texts: list[bytes]) -> Iterator[list[bytes]]:
    shard: list[bytes] = []
    characters = 0
    for text in texts:
        shard.append(text)
        characters += len(text.decode())
        if characters >= SHARD_CHARACTERS:
            yield shard
            shard, characters = [], 0
    if shard:
        yield shard


def path_texts(spec: DownloadSpec, folder: Path, metrics: MetricsWriter, counts: OwnTextCounts) -> Iterator[str]:
    """Yield the documents of the user's files. Raises DataError, after the last, where too many lines were bad."""
    if not spec.path:
        raise DataError("The source 'path' needs a folder: set download.path.")
    place = Path(spec.path).expanduser()
    files = find_text_files(place)
    counts.other_files = len(other_files(place))
    bad = BadLines(folder / RECORD_NAME, allowed=spec.max_bad_lines)
    for done, path in enumerate(files, start=1):
        for _, text in read_texts(path, bad, column=spec.text_column):
            yield text
        metrics.write(done, total_steps=len(files), progress="files read")
    counts.bad_lines = bad.count
    bad.check()


def local_texts(spec: DownloadSpec, metrics: MetricsWriter) -> list[str]:
    texts: list[str] = []
    for corpus in local_corpus.collect(spec.local_characters, spec.seed):
        metrics.write(corpus.characters, total_steps=spec.local_characters, progress="characters collected")
        texts = corpus.documents
    return texts
