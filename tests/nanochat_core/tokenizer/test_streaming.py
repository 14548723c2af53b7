"""Streaming is decoding: the pieces joined are the text, and no piece is taken back by a later one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.tokenizer.streaming import StreamDecoder
from tests.parity.golden_tokenizer import golden_tokenizer

TOKENIZER = golden_tokenizer()
# Ids below 256 are single bytes: most of what they spell is no UTF-8, or a part of a character.
IDS = st.lists(st.one_of(st.integers(0, 255), st.integers(0, TOKENIZER.vocab_size - 1)), max_size=40)


def streamed(ids: list[int], size: int = 1) -> list[str]:
    """Return the pieces of `ids`, fed `size` at a time, and what was held back."""
    decoder = StreamDecoder(TOKENIZER)
    return [decoder.feed(ids[first : first + size]) for first in range(0, len(ids), size)] + [decoder.finish()]


@given(IDS, st.integers(1, 5))
def test_the_pieces_of_any_ids_are_what_decode_gives(ids: list[int], size: int) -> None:
    assert "".join(streamed(ids, size)) == TOKENIZER.decode(ids)


@given(st.binary(max_size=60))
def test_the_pieces_of_any_bytes_are_what_decode_gives(data: bytes) -> None:
    ids = [TOKENIZER.encode_bytes(bytes([byte]))[0] for byte in data]
    assert "".join(streamed(ids)) == data.decode("utf-8", "replace") == TOKENIZER.decode(ids)


@given(IDS, IDS)
def test_what_was_emitted_stays_whatever_comes_later(ids: list[int], later: list[int]) -> None:
    emitted = "".join(streamed(ids)[:-1])
    assert TOKENIZER.decode([*ids, *later]).startswith(emitted)


@given(st.text())
def test_whole_text_has_no_replacement_character_that_it_did_not_have(text: str) -> None:
    pieces = streamed(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    assert pieces[-1] == ""


def test_a_character_comes_with_its_last_byte_and_no_later() -> None:
    decoder = StreamDecoder(TOKENIZER)
    pieces = [decoder.feed(TOKENIZER.encode_bytes(bytes([byte]))) for byte in "é🐈!".encode()]
    assert pieces == ["", "é", "", "", "", "🐈", "!"]


def test_special_tokens_come_as_their_names_and_finish_begins_anew() -> None:
    decoder = StreamDecoder(TOKENIZER)
    half = TOKENIZER.encode_bytes("é".encode()[:1])
    assert decoder.feed([TOKENIZER.bos, *half]) == "<|bos|>"
    assert decoder.finish() == "\ufffd"
    assert decoder.feed(TOKENIZER.encode("x")) == "x"
    assert decoder.finish() == ""


def test_an_id_that_is_no_token_is_refused() -> None:
    with pytest.raises(KeyError):
        StreamDecoder(TOKENIZER).feed([TOKENIZER.vocab_size])
