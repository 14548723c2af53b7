"""Byte-level BPE: trained with `tokenizers`, kept as `tokenizer.json`, encoded with `tiktoken`. Torch-free.

Text is cut into pieces by `SPLIT_PATTERN` (the GPT-4 rule, with digits in groups of one or two), and within a piece the
adjacent pair with the lowest rank is merged until none is left. A token's rank is its id: 0..255 are the single bytes,
then the merges in the order they were learned; the special tokens take the last ids.

`tokenizer.json` is made from the ranks alone, so that equal ranks give equal bytes. It also loads in `tokenizers` and
in transformers' `PreTrainedTokenizerFast`.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as JsonTokenizer

from nanochat_core import artifacts
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.errors import ArtifactError, DataError

FILE_NAME = "tokenizer.json"
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
BYTES = 256
MIN_PAIR_COUNT = 2  # a pair seen once is no regularity of the text: learning it would only name that one place
LONGEST_BLANK_RUN = 100_000  # characters: tiktoken's regex engine panics on a million blanks, so longer runs are cut
TEXTS_PER_BATCH = 256  # handed to the trainer's threads at a time


class Tokenizer:
    """Text to ids and back. Immutable; made by `load`, `train` or `from_ranks`."""

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int], json_text: str) -> None:
        self._json_text = json_text
        self._special = special
        self._encoding = tiktoken.Encoding(
            name="nanochat", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special
        )
        self.vocab_size = len(ranks) + len(special)
        self.special_ids = frozenset(special.values())

    @classmethod
    def from_ranks(cls, ranks: dict[bytes, int], special: dict[str, int]) -> "Tokenizer":
        """Return the tokenizer with these ranks and special ids; raises DataError where ids are missing or double."""
        _check_ids(ranks, special)
        return cls(ranks, special, _json_of(ranks, special))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Return a tokenizer of exactly `vocab_size` tokens, special ones included, learned from `texts`.

        Deterministic: equal texts give equal bytes of tokenizer.json. Raises DataError where the text has fewer pairs
        to merge than `vocab_size` asks for.
        """
        merged = vocab_size - len(SPECIAL_TOKENS)
        learned = _learn_tokens(texts, merged)
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
            ranks, special = _parse(value)
            _check_ids(ranks, special)
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
        if len(text) <= LONGEST_BLANK_RUN:
            return self._encoding.encode_ordinary(text)
        pieces = re.split(rf"(\s{{{LONGEST_BLANK_RUN}}})", text)
        return [token for piece in pieces for token in self._encoding.encode_ordinary(piece)]

    def encode_batch(self, texts: Sequence[str], *, num_threads: int = 1) -> list[list[int]]:
        """Return the ids of each text; the threads run outside Python's lock."""
        if any(len(text) > LONGEST_BLANK_RUN for text in texts):
            return [self.encode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=num_threads)

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
        for index in range(self.vocab_size):
            if index not in self.special_ids:
                lengths[index] = len(self._encoding.decode_single_token_bytes(index))
        return lengths


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in tokenizer.json (GPT-2's byte-level alphabet).

    A byte whose Latin-1 character is printable is that character; the others take U+0100, U+0101, … in order.

    >>> byte_characters()[ord("a")], byte_characters()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(BYTES)]


def _learn_tokens(texts: Iterable[str], count: int) -> list[bytes]:
    """Return the 256 bytes and then the learned tokens, at most `count` in all."""
    tokenizer = JsonTokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=count,
        min_frequency=MIN_PAIR_COUNT,
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    byte_of = _byte_of_character()
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = (bytes(byte_of[character] for character in token) for token, _ in by_id)
    return [bytes([byte]) for byte in range(BYTES)] + [token for token in tokens if len(token) > 1]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, TEXTS_PER_BATCH)):
        yield batch


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def _check_ids(ranks: dict[bytes, int], special: dict[str, int]) -> None:
    if set(special) != set(SPECIAL_TOKENS):
        raise DataError(f"its special tokens are {sorted(special)}, expected {sorted(SPECIAL_TOKENS)}")
    if missing := [byte for byte in range(BYTES) if bytes([byte]) not in ranks]:
        raise DataError(f"it has no token for the byte {missing[0]}")
    if sorted([*ranks.values(), *special.values()]) != list(range(len(ranks) + len(special))):
        raise DataError("its ids are not 0, 1, 2, … without gaps")


def _json_of(ranks: dict[bytes, int], special: dict[str, int]) -> str:
    """Return tokenizer.json for these ranks.

    tiktoken merges any two neighbours whose joined bytes are a token; a BPE model in the file merges the listed pairs
    only. So every split of every token into two tokens is listed, in order of the token's rank: the two then agree.
    """
    characters = byte_characters()
    spelled = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [split for split in splits if split[0] in ranks and split[1] in ranks]
        merges += sorted(known, key=lambda split: (ranks[split[0]], ranks[split[1]]))
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = JsonTokenizer(models.BPE(vocab, [(spelled[left], spelled[right]) for left, right in merges]))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    names = sorted(special, key=special.__getitem__)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer.to_str()


def _parse(value: dict[str, Any]) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return ranks and special ids of a parsed tokenizer.json; raises DataError for one with another split pattern."""
    pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    if pattern != SPLIT_PATTERN:
        raise DataError(f"it splits text by {json.dumps(pattern)[:60]}")
    byte_of = _byte_of_character()
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in value["model"]["vocab"].items()}
    return ranks, {token["content"]: token["id"] for token in value["added_tokens"]}
