"""Tokenised shards: each text shard's ids, written once and mapped into memory by every run. Torch-free.

A cache, not an artifact: $NANOCHAT_BASE_DIR/tokens/<tokenizer's hash>/<shard's SHA-256>.safetensors is a function of
those two hashes, so that whoever comes first builds it and anybody may delete it. In the file: `ids`, uint16 or uint32
(documents one after the other, without BOS), and `offsets`, int64 (documents + 1,).
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from nanochat_core import artifacts
from nanochat_core.data.shards import read_row_group, row_groups
from nanochat_core.errors import ArtifactError
from nanochat_core.tokenizer.bpe import Tokenizer

FORMAT_VERSION = 1  # raised when the layout changes; it is part of the name
CHECKED_DOCUMENTS = 4  # of each row group, encoded once more with tiktoken
HASH_CHARACTERS = 16
DTYPES = {"U16": np.uint16, "U32": np.uint32, "I64": np.int64}


class TokenShard:
    """The ids of one shard, mapped: reading a document copies nothing and touches no other."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self._ids, self._offsets = ids, offsets

    @classmethod
    def open(cls, path: Path) -> "TokenShard":
        """Map a file of `build_token_shard`; raises ArtifactError where it is missing or not whole."""
        try:
            with open(path, "rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(header_bytes))
            arrays = {
                name: np.memmap(
                    path, DTYPES[info["dtype"]], "r", 8 + header_bytes + info["data_offsets"][0], tuple(info["shape"])
                )
                for name, info in header.items()
                if name != "__metadata__"
            }
            if arrays["offsets"][0] != 0 or arrays["offsets"][-1] != len(arrays["ids"]):
                raise ValueError("its documents are not where it says")
            return cls(np.asarray(arrays["ids"]), np.asarray(arrays["offsets"]))  # views; of a memmap they cost more
        except (OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
            raise ArtifactError(f"{path} is no whole file of tokens ({error}): remove it and run again.") from None

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def document(self, index: int) -> np.ndarray:
        """Return the ids of one document, without BOS: a view."""
        return self._ids[self._offsets[index] : self._offsets[index + 1]]


def token_shard_path(sha256: str, tokenizer_hash: str, cache: Path) -> Path:
    """Return where the tokens of a shard belong."""
    folder = cache / f"v{FORMAT_VERSION}-{tokenizer_hash[:HASH_CHARACTERS]}"
    return folder / f"{sha256[:HASH_CHARACTERS]}.safetensors"


def build_token_shard(shard: Path, sha256: str, tokenizer_folder: Path, cache: Path) -> Path:
    """Like `ensure_token_shard`, with the tokenizer as a folder: what a task on another machine is given."""
    return ensure_token_shard(shard, sha256, Tokenizer.load(tokenizer_folder), cache)


def ensure_token_shard(shard: Path, sha256: str, tokenizer: Tokenizer, cache: Path) -> Path:
    """Return the file with the tokens of `shard`, tokenised now unless it is there and whole. Atomic.

    `sha256` is of the shard's bytes. Raises DataError for a corrupt shard.
    """
    path = token_shard_path(sha256, tokenizer.hash, cache)
    if not is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        origin = f"shard {sha256} by tokenizer {tokenizer.hash}"  # one entry: several would be in random order
        artifacts.write_bytes(path, save(_encoded(shard, tokenizer), metadata={"origin": origin}))
    return path


def _encoded(shard: Path, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Return the tensors of a shard's file."""
    ids, lengths = [np.empty(0, tokenizer.token_dtype)], [np.zeros(1, np.int64)]
    for _, group, _ in row_groups([shard]):
        texts = read_row_group(shard, group)
        group_ids, offsets = tokenizer.encode_flat(texts)
        _check_against_tiktoken(tokenizer, texts[:CHECKED_DOCUMENTS], group_ids, offsets)
        ids.append(group_ids)
        lengths.append(np.diff(offsets))
    return {"ids": np.concatenate(ids), "offsets": np.cumsum(np.concatenate(lengths))}


def _check_against_tiktoken(tokenizer: Tokenizer, texts: Sequence[str], ids: np.ndarray, offsets: np.ndarray) -> None:
    """The fast encoder must give what tiktoken gives: everything that is learned stands on it."""
    for text, (first, end) in zip(texts, itertools.pairwise(offsets), strict=False):
        assert tokenizer.encode(text) == ids[first:end].tolist(), f"splintr encodes {text[:80]!r}… unlike tiktoken"


def is_whole(path: Path) -> bool:
    """Whether the file is there with all that its header announces."""
    try:
        TokenShard.open(path)
    except ArtifactError:
        return False
    return True
