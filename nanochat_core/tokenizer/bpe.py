"""Byte-level BPE: learned with `rustbpe`, kept as `tokenizer.json`, encoded with `tiktoken` and `splintr`. Torch-free.

Text is cut into pieces (`split_rule.py`), and within a piece the adjacent pair with the lowest rank is merged until
none is left. A token's rank is its id: 0..255 are the single bytes, then the merges in the order they were learned;
the special tokens take the last ids.

Single texts go through tiktoken, many at once through splintr, which is several times faster and gives the same ids
(docs/decisions/0010; the tests compare them on any unicode, and each tokenised shard is sampled).
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import splintr
import tiktoken
from tokenizers import Tokenizer as JsonTokenizer

from nanochat_core import artifacts
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.tokenizer.json_form import check_ids, json_of, parse
from nanochat_core.tokenizer.split_rule import SPLIT_PATTERN, UNPOSSESSIVE_PATTERN
from nanochat_core.tokenizer.trainer import learn_tokens

FILE_NAME = "tokenizer.json"
LONGEST_FOR_TIKTOKEN = 100_000  # characters: its regex engine panics on a million blanks
STRAY_BYTE = re.compile("([\udc80-\udcff])")  # how Python's "surrogateescape" reads a byte that is no UTF-8
MAX_SHORT_VOCAB = 1 << 16  # ids below it fit into uint16


class Tokenizer:
    """Text to ids and back. Immutable; made by `load`, `train` or `from_ranks`."""

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int], json_text: str) -> None:
        self._json_text = json_text
        self._ranks = ranks
        self._special = special
        self._encoding = tiktoken.Encoding(
            name="nanochat", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special
        )
        self.vocab_size = len(ranks) + len(special)
        self.special_ids = frozenset(special.values())
        self.token_dtype = np.dtype(np.uint16 if self.vocab_size <= MAX_SHORT_VOCAB else np.uint32)

    @classmethod
    def from_ranks(cls, ranks: dict[bytes, int], special: dict[str, int]) -> "Tokenizer":
        """Return the tokenizer with these ranks and special ids; raises DataError where ids are missing or double."""
        check_ids(ranks, special)
        return cls(ranks, special, json_of(ranks, special))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Return a tokenizer of exactly `vocab_size` tokens, special ones included, learned from `texts`.

        Deterministic: equal texts give equal bytes of tokenizer.json. Raises DataError where the text has fewer pairs
        to merge than `vocab_size` asks for.
        """
        merged = vocab_size - len(SPECIAL_TOKENS)
        learned = learn_tokens(texts, merged)
        if len(learned) < merged:
            supported = len(learned) + len(SPECIAL_TOKENS)
            raise DataError(
                f"The training text supports a vocabulary of {supported:,} tokens, {vocab_size:,} were asked for: "
                f"set tokenizer.vocab_size to {supported} or less, or train on more text."
            )
        ranks = {token: rank for rank, token in enumerate(learned)}
        return cls.from_ranks(ranks, {name: merged + index for index, name in enumerate(SPECIAL_TOKENS)})

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Return the tokenizer in `folder`; raises ArtifactError where tokenizer.json is missing or not one of ours."""
        path = folder / FILE_NAME
        value = artifacts.read_json(path)
        try:
            ranks, special = parse(value)
            check_ids(ranks, special)
        except (KeyError, TypeError, DataError) as error:
            raise ArtifactError(
                f"{path} is no tokenizer of this project ({error}); run the tokenizer stage again."
            ) from None
        return cls(ranks, special, path.read_text(encoding="utf-8"))

    def save(self, folder: Path) -> None:
        """Write `folder`/tokenizer.json, whole or not at all."""
        artifacts.write_bytes(folder / FILE_NAME, self._json_text.encode())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of tokenizer.json in hex: a checkpoint remembers it."""
        return hashlib.sha256(self._json_text.encode()).hexdigest()

    @property
    def bos(self) -> int:
        return self.special("<|bos|>")

    def special(self, name: str) -> int:
        """Return the id of a special token; raises KeyError for a name that is none."""
        return self._special[name]

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without BOS. Text that spells a special token stays text."""
        if len(text) > LONGEST_FOR_TIKTOKEN:
            return self.encode_flat([text])[0].tolist()
        return self._encoding.encode_ordinary(text)

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, one after the other, and where each begins: what `encode` gives, much faster.

        Ids are of `token_dtype` (n,), offsets int64 (len(texts) + 1,). It runs on RAYON_NUM_THREADS threads, all cores
        by default, outside Python's lock.
        """
        try:
            ids, offsets = self._splintr.encode_batch_flat(texts)
        except UnicodeEncodeError:  # half a character (a lone surrogate), which tiktoken reads as U+FFFD too
            whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
            ids, offsets = self._splintr.encode_batch_flat(whole)
        return np.frombuffer(ids, "<u4").astype(self.token_dtype), np.frombuffer(offsets, "<u8").astype(np.int64)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return ids whose bytes are `data`, which need not be UTF-8: what is none becomes tokens of single bytes."""
        ids: list[int] = []
        for part in STRAY_BYTE.split(data.decode("utf-8", "surrogateescape")):
            is_stray = STRAY_BYTE.fullmatch(part)
            ids += [self._ranks[part.encode("utf-8", "surrogateescape")]] if is_stray else self.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        ids, offsets = self.encode_flat(texts)
        return [piece.tolist() for piece in np.split(ids, offsets[1:-1])] if len(texts) else []

    @cached_property
    def _splintr(self) -> splintr.Tokenizer:
        """Special tokens are left out of it: no text can spell one."""
        lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in self._ranks.items())
        return splintr.Tokenizer.from_bytes(b"".join(lines), UNPOSSESSIVE_PATTERN)

    def encode_with_file(self, text: str) -> list[int]:
        """Return what the `tokenizers` library makes of `text` by tokenizer.json: equal to `encode`, and slower."""
        return self._file_tokenizer.encode(text).ids

    @cached_property
    def _file_tokenizer(self) -> JsonTokenizer:
        tokenizer = JsonTokenizer.from_str(self._json_text)
        tokenizer.encode_special_tokens = True  # text that spells a special token stays text
        return tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`: special tokens as their names, bytes that are no UTF-8 as U+FFFD."""
        return self._encoding.decode(ids, errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the raw bytes of `ids`: what was encoded, exactly."""
        return self._encoding.decode_bytes(ids)

    def token_bytes(self) -> np.ndarray:
        """Return (V,) int32: the raw bytes of each token, 0 for special ones.

        Never counted on decoded text: a token may be part of a character, and U+FFFD in its place is three bytes long.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token, index in self._ranks.items():
            lengths[index] = len(token)
        return lengths
