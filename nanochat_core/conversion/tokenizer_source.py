"""Tokenizers from elsewhere: a tokenizer.json of anybody's, or tiktoken's file of ranks. Never a pickle."""

import base64
import binascii
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as JsonTokenizer

from nanochat_core import artifacts
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.conversion.samples import TEXTS
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.json_form import byte_characters
from nanochat_core.tokenizer.split_rule import SPLIT_PATTERN, UNPOSSESSIVE_PATTERN

PICKLE_MARK = b"\x80"  # the first byte of a pickle of protocol 2 and above
KNOWN_PATTERNS = (SPLIT_PATTERN, UNPOSSESSIVE_PATTERN)
WANTED = "a tokenizer.json, or tiktoken's file of ranks (on each line a token in base64 and its rank)"


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a file; raises ArtifactError for one that is missing, a pickle, or encodes otherwise."""
    if not path.is_file():
        raise ArtifactError(f"There is no {path}. Name the model's tokenizer with --tokenizer: {WANTED}.")
    with open(path, "rb") as file:
        first = file.read(1)
    if path.suffix in (".pkl", ".pickle") or first == PICKLE_MARK:
        raise ArtifactError(f"{path} is a pickle, which can hold a program; it is not opened. Give {WANTED}.")
    try:
        return _from_json(path) if first == b"{" else _from_ranks(path)
    except (DataError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = str(error) if isinstance(error, DataError) else repr(error)
        raise ArtifactError(f"{path} is no tokenizer that this project can use: {reason}. Give {WANTED}.") from None


def _from_ranks(path: Path) -> Tokenizer:
    """tiktoken's ranks; the special tokens take the ids after them, in their usual order."""
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (binascii.Error, ValueError):
            raise DataError(f"line {number} is not a token in base64 and its rank") from None
    return Tokenizer.from_ranks(ranks, {name: len(ranks) + index for index, name in enumerate(SPECIAL_TOKENS)})


def _from_json(path: Path) -> Tokenizer:
    value = artifacts.read_json(path)
    pattern = _split_pattern(value["pre_tokenizer"])
    if pattern not in KNOWN_PATTERNS:
        raise DataError(f"it splits text by {pattern!r:.80}")
    special = {token["content"]: token["id"] for token in value["added_tokens"]}
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    ranks = {
        bytes(byte_of[character] for character in token): rank
        for token, rank in value["model"]["vocab"].items()
        if token not in special
    }
    tokenizer = Tokenizer.from_ranks(ranks, special)
    _check_same(tokenizer, path)
    return tokenizer


def _split_pattern(value: dict[str, Any]) -> str | None:
    """Return the regular expression that the file cuts text by."""
    parts = value.get("pretokenizers", [value])
    return next((part["pattern"]["Regex"] for part in parts if part["type"] == "Split"), None)


def _check_same(tokenizer: Tokenizer, path: Path) -> None:
    """Raise DataError where the file, read by the `tokenizers` library, encodes in another way than we do."""
    try:
        theirs = JsonTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise DataError(f"the tokenizers library does not read it ({error})") from None
    theirs.encode_special_tokens = True
    for text in TEXTS:
        if theirs.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise DataError(f"it encodes {text[:40]!r} in another way than this project would from its tokens")
