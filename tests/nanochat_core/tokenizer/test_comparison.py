"""The comparison with GPT-2 and GPT-4: by their own ranks where these are there, else by a table of the samples."""

import hashlib

import pytest
import tiktoken

from nanochat_core import artifacts
from nanochat_core.tokenizer.comparison import (
    OWN,
    SAMPLES,
    SAMPLES_FOLDER,
    TABLE,
    compare_held_out,
    compare_samples,
    count_reference_tokens,
    sample_text,
)
from nanochat_core.tokenizer.compression import measure
from nanochat_core.tokenizer.public_vocabularies import VOCABULARIES, public_encodings
from nanochat_core.tokenizer.reference_table import reference_table
from tests.parity.golden_tokenizer import golden_tokenizer

TOKENIZER = golden_tokenizer()


def bytes_encoding() -> tiktoken.Encoding:
    """Return an encoding that plays a public one: each byte is a token."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("bytes", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})


def test_the_table_was_made_of_the_samples_as_they_are() -> None:
    table = artifacts.read_json(TABLE)["samples"]
    assert list(table) == list(SAMPLES)
    assert sorted(path.stem for path in SAMPLES_FOLDER.glob("*.txt")) == sorted(SAMPLES)
    for name, row in table.items():
        data = sample_text(name).encode()
        assert row["sha256"] == hashlib.sha256(data).hexdigest(), f"{name}.txt changed: run reference_table.py"
        assert row["bytes"] == len(data)
        assert all(row["bytes"] / 6 < row[key] < row["bytes"] for key in VOCABULARIES)


def test_the_table_is_what_the_real_ranks_give() -> None:
    if set(public_encodings(fetch=False)) != set(VOCABULARIES):
        pytest.skip("tiktoken's cache ($TIKTOKEN_CACHE_DIR) does not hold the vocabularies of GPT-2 and GPT-4")
    assert reference_table() == artifacts.read_json(TABLE)


def test_the_table_stands_in_for_a_vocabulary_that_is_not_there() -> None:
    table = artifacts.read_json(TABLE)["samples"]
    for found in compare_samples(TOKENIZER, {}):
        ids = TOKENIZER.encode(sample_text(found.name))
        assert found.tokens == {OWN: len(ids)} | {key: table[found.name][key] for key in VOCABULARIES}
        assert found.bytes_per_token(OWN) == found.bytes / len(ids)


def test_ranks_that_are_there_go_before_the_table() -> None:
    for found in compare_samples(TOKENIZER, {"gpt2": bytes_encoding()}):
        assert found.tokens["gpt2"] == found.bytes
        assert found.tokens["cl100k_base"] < found.bytes


def test_held_out_text_is_measured_by_every_vocabulary_that_is_there() -> None:
    texts = ["The river is wide.", "Größe"] * 300
    own = measure(TOKENIZER, texts)
    found = compare_held_out(own, {"gpt2": bytes_encoding()}, lambda: texts)
    assert found.tokens == {OWN: own.tokens, "gpt2": own.bytes}
    assert compare_held_out(own, {}, lambda: texts).tokens == {OWN: own.tokens}


def test_a_text_that_tiktoken_would_choke_on_is_counted_in_pieces() -> None:
    text = " " * 1_000_000
    assert count_reference_tokens(bytes_encoding(), [text, "", "ab"]) == 1_000_002
