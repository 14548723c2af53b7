"""tokenizer.json, the one file that says what a tokenizer is: made from the ranks alone, equal ranks give equal bytes.

It also loads in `tokenizers` and in transformers' `PreTrainedTokenizerFast`. Torch-free.
"""

import itertools
import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.errors import DataError
from nanochat_core.tokenizer.split_rule import SPLIT_PATTERN
from nanochat_core.tokenizer.trainer import BYTES


def json_of(ranks: dict[bytes, int], special: dict[str, int]) -> str:
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
    tokenizer = Tokenizer(models.BPE(vocab, [(spelled[left], spelled[right]) for left, right in merges]))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    names = sorted(special, key=special.__getitem__)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer.to_str()


def parse(value: dict[str, Any]) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return ranks and special ids of a parsed tokenizer.json; raises DataError for one with another split pattern."""
    pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    if pattern != SPLIT_PATTERN:
        raise DataError(f"it splits text by {json.dumps(pattern)[:60]}")
    byte_of = _byte_of_character()
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in value["model"]["vocab"].items()}
    return ranks, {token["content"]: token["id"] for token in value["added_tokens"]}


def check_ids(ranks: dict[bytes, int], special: dict[str, int]) -> None:
    """Raise DataError unless there is each byte, each special token, and each id from 0 on, once."""
    if set(special) != set(SPECIAL_TOKENS):
        raise DataError(f"its special tokens are {sorted(special)}, expected {sorted(SPECIAL_TOKENS)}")
    if missing := [byte for byte in range(BYTES) if bytes([byte]) not in ranks]:
        raise DataError(f"it has no token for the byte {missing[0]}")
    if sorted([*ranks.values(), *special.values()]) != list(range(len(ranks) + len(special))):
        raise DataError("its ids are not 0, 1, 2, … without gaps")


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in tokenizer.json (GPT-2's byte-level alphabet).

    A byte whose Latin-1 character is printable is that character; the others take U+0100, U+0101, … in order.

    >>> byte_characters()[ord("a")], byte_characters()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(BYTES)]


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}
