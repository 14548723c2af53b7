import contextlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.json_form import byte_characters
from tests.parity.golden_tokenizer import golden_json, golden_tokenizer

TEXTS = [example["text"] for example in golden_json("encodings.json")]
VOCAB_SIZE = 512
LEARNED = Tokenizer.train(TEXTS, VOCAB_SIZE)  # small, and of a text with many scripts
GOLDEN = golden_tokenizer()

# Arbitrary unicode, and pieces that provoke the split rule, the special tokens and overlapping merges.
AWKWARD = st.sampled_from(
    [*SPECIAL_TOKENS, "<|", "|>", "\r\n", "\n\n", "  ", "'ſ", "'LL", "aaa", "123", "é", "\u2028", "\x00"]
)
UNICODE = st.lists(st.one_of(AWKWARD, st.text(max_size=12)), max_size=12).map("".join)


@given(UNICODE)
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    for tokenizer in (LEARNED, GOLDEN):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()


@given(UNICODE)
def test_text_that_spells_a_special_token_stays_text(text: str) -> None:
    assert not LEARNED.special_ids.intersection(LEARNED.encode(text))


@given(UNICODE)
def test_token_bytes_add_up_to_the_text(text: str) -> None:
    ids = LEARNED.encode(text)
    assert LEARNED.token_bytes()[ids].sum() == len(text.encode())


@given(st.text(st.sampled_from("ab 1'\n\u00e9\u4e2d"), max_size=40))
@settings(max_examples=300)
def test_the_file_encodes_as_tiktoken_does(text: str) -> None:
    for tokenizer in (LEARNED, GOLDEN):
        assert tokenizer.encode_with_file(text) == tokenizer.encode(text)


@given(st.lists(UNICODE, max_size=6))
@settings(max_examples=300)
def test_many_texts_at_once_have_the_ids_of_each_alone(texts: list[str]) -> None:
    for tokenizer in (LEARNED, GOLDEN):
        ids, offsets = tokenizer.encode_flat(texts)
        assert ids.dtype == np.uint16 and offsets.tolist()[0] == 0 and len(offsets) == len(texts) + 1
        expected = [tokenizer.encode(text) for text in texts]
        assert [ids[first:end].tolist() for first, end in itertools.pairwise(offsets)] == expected
        assert tokenizer.encode_batch(texts) == expected


@given(st.lists(st.one_of(st.binary(max_size=8), st.text(max_size=8).map(str.encode)), max_size=6).map(b"".join))
def test_any_bytes_survive_encoding_and_decoding(data: bytes) -> None:
    for tokenizer in (LEARNED, GOLDEN):
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    with contextlib.suppress(UnicodeDecodeError):
        assert LEARNED.encode_bytes(data) == LEARNED.encode(data.decode())


def test_half_a_character_is_read_alike_alone_and_in_a_batch() -> None:
    text = "half \ud83d a smile"
    assert LEARNED.encode_batch([text]) == [LEARNED.encode(text)]
    assert LEARNED.decode(LEARNED.encode(text)) == "half \ufffd a smile"


def test_a_million_blanks_do_not_stop_the_encoder() -> None:
    for text in (" " * 1_000_000, "\t" * 250_000 + "end", "word " * 100_000):
        assert GOLDEN.decode(GOLDEN.encode(text)) == text


def test_ids_beyond_65535_are_kept_in_four_bytes() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {bytes(pair): 65_791 - index for index, pair in enumerate(itertools.product(range(256), repeat=2))}
    large = Tokenizer.from_ranks(ranks, {name: len(ranks) + index for index, name in enumerate(SPECIAL_TOKENS)})
    ids, _ = large.encode_flat(["\x00\x01"])
    assert ids.dtype == np.uint32 and ids.tolist() == large.encode("\x00\x01") == [65_790]


def test_token_bytes_are_of_the_raw_bytes_and_zero_for_specials() -> None:
    lengths = GOLDEN.token_bytes()
    assert lengths.shape == (8192,) and lengths.dtype == np.int32
    assert [index for index in range(8192) if lengths[index] == 0] == sorted(GOLDEN.special_ids)
    assert all(lengths[index] == len(GOLDEN.decode_bytes([index])) for index in range(8183))
    broken = [index for index in range(8183) if "\ufffd" in GOLDEN.decode([index])]
    assert broken  # parts of characters: their decoded text has another length


def test_special_tokens_have_the_last_ids_and_show_as_their_names() -> None:
    ids = [LEARNED.special(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(VOCAB_SIZE - len(SPECIAL_TOKENS), VOCAB_SIZE)) and LEARNED.bos == ids[0]
    assert LEARNED.decode([LEARNED.bos, *LEARNED.encode("Hi"), ids[-1]]) == "<|bos|>Hi<|output_end|>"


def test_single_bytes_are_the_first_ids() -> None:
    assert [LEARNED.decode_bytes([index]) for index in range(256)] == [bytes([index]) for index in range(256)]
    assert len(set(byte_characters())) == 256


def test_the_same_text_gives_the_same_file(tmp_path: Path) -> None:
    again = Tokenizer.train(iter(TEXTS), VOCAB_SIZE)
    assert again.hash == LEARNED.hash
    again.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.hash == LEARNED.hash and loaded.vocab_size == VOCAB_SIZE
    assert [loaded.encode(text) for text in TEXTS] == [LEARNED.encode(text) for text in TEXTS]


def test_transformers_reads_the_file(tmp_path: Path) -> None:
    LEARNED.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    plain = [text for text in TEXTS if "<|" not in text]
    assert theirs(plain)["input_ids"] == [LEARNED.encode(text) for text in plain]
    assert theirs.decode(LEARNED.encode(TEXTS[0])) == TEXTS[0] and len(theirs) == VOCAB_SIZE


def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_the_number() -> None:
    with pytest.raises(DataError, match=r"supports a vocabulary of (\d+) tokens.*set tokenizer\.vocab_size") as caught:
        Tokenizer.train(["hello hello world world"], 1000)
    supported = int(str(caught.value).split("vocab_size to ")[1].split(" ")[0])
    assert Tokenizer.train(["hello hello world world"], supported).vocab_size == supported


def test_a_file_that_is_missing_or_foreign_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    LEARNED.save(tmp_path)
    value = json.loads((tmp_path / "tokenizer.json").read_text())
    value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="splits text by"):
        Tokenizer.load(tmp_path)


def test_ranks_with_a_gap_or_without_a_byte_are_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {name: 256 + index for index, name in enumerate(SPECIAL_TOKENS)}
    assert Tokenizer.from_ranks(ranks, special).vocab_size == 265
    with pytest.raises(DataError, match="without gaps"):
        Tokenizer.from_ranks(ranks | {b"ab": 300}, special)
    with pytest.raises(DataError, match="no token for the byte 7"):
        Tokenizer.from_ranks({token: rank for token, rank in ranks.items() if rank != 7}, special)
