"""The vocabularies of GPT-2 and GPT-4, to compare ours with: from tiktoken's cache, or fetched by it. Torch-free.

No run needs them and no run fails for want of them, so by default the network is left alone: they are used where
tiktoken has them already ($TIKTOKEN_CACHE_DIR, else a folder among the temporary ones).
"""

import hashlib
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import tiktoken
from tiktoken.load import read_file_cached

FETCH_SECONDS = 20.0  # for 3 MB; tiktoken itself would wait for ever
OFFLINE = "HF_HUB_OFFLINE"  # what the user says about the Hub holds for other servers too
TRUE_VALUES = ("1", "ON", "YES", "TRUE")
SERVER = "https://openaipublic.blob.core.windows.net"


@dataclass(frozen=True)
class PublicVocabulary:
    """What tiktoken makes a vocabulary from: files on OpenAI's server, by path, with their sha256."""

    title: str
    size: int
    files: dict[str, str]


VOCABULARIES = {
    "gpt2": PublicVocabulary(
        "GPT-2",
        50_257,
        {
            "gpt-2/encodings/main/vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            "gpt-2/encodings/main/encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        },
    ),
    "cl100k_base": PublicVocabulary(
        "GPT-4",
        100_277,
        {
            "encodings/cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        },
    ),
}


def public_encodings(*, fetch: bool) -> dict[str, tiktoken.Encoding]:
    """Return those of VOCABULARIES that tiktoken's cache holds whole; with `fetch`, after a try to download the others.

    The try takes FETCH_SECONDS at most, and none is made where the user says that this machine is offline.
    """
    missing = [vocabulary for vocabulary in VOCABULARIES.values() if not is_cached(vocabulary)]
    if missing and fetch and os.environ.get(OFFLINE, "").upper() not in TRUE_VALUES:
        fetcher = threading.Thread(target=_fetch, args=(missing,), daemon=True)  # left behind where a server hangs
        fetcher.start()
        fetcher.join(FETCH_SECONDS)
    return {name: tiktoken.get_encoding(name) for name, vocabulary in VOCABULARIES.items() if is_cached(vocabulary)}


def is_cached(vocabulary: PublicVocabulary) -> bool:
    """Return whether each of its files is in tiktoken's cache, unharmed: only then tiktoken asks no server for it."""
    return all(_is_whole(cached_path(path), sha256) for path, sha256 in vocabulary.files.items())


def cached_path(path: str) -> Path:
    """Return where tiktoken keeps what it has downloaded from `path` on SERVER."""
    default = os.environ.get("DATA_GYM_CACHE_DIR", os.path.join(tempfile.gettempdir(), "data-gym-cache"))
    key = hashlib.sha1(f"{SERVER}/{path}".encode(), usedforsecurity=False)
    return Path(os.environ.get("TIKTOKEN_CACHE_DIR", default)) / key.hexdigest()


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _fetch(vocabularies: list[PublicVocabulary]) -> None:
    """Have tiktoken download the files into its cache. (`get_encoding` would hold a lock as long as a server hangs.)"""
    for vocabulary in vocabularies:
        for path, sha256 in vocabulary.files.items():
            try:
                read_file_cached(f"{SERVER}/{path}", sha256)
            except (OSError, ValueError) as error:  # the network (requests' errors are OSErrors), or other bytes
                print(f"{vocabulary.title}'s vocabulary was not fetched: {type(error).__name__}", flush=True)
                return
