"""Log-probabilities as clients read them: unique names, the same number in both places, offsets that point right."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from deployments.serving.logprobs import LEAST, CompletionLogprobs, chat_logprobs, spelling
from nanochat_core.inference.requests import ScoredToken
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()
texts = st.text(st.characters(codec="utf-8"), max_size=20)


def test_tokens_that_are_no_text_are_spelled_as_their_bytes() -> None:
    assert [spelling(TOKENIZER, token) for token in (65, 0xC3, 0xA9, 256)] == [
        "A",
        "bytes:\\xc3",
        "bytes:\\xa9",
        "<|bos|>",
    ]
    names = [spelling(TOKENIZER, token) for token in range(TOKENIZER.vocab_size)]
    assert len(set(names)) == len(names)


def test_a_token_has_one_number_in_both_lists_whatever_its_rank() -> None:
    others = tuple((token, -0.1 - token / 100) for token in range(3))
    for token in (0, 2, 7):
        scored = ScoredToken(token, -0.123456789, others)
        for count in (0, 1, 3):
            lists = CompletionLogprobs(TOKENIZER, count).lists([scored])
            (top,) = lists["top_logprobs"]
            assert top[spelling(TOKENIZER, token)] == lists["token_logprobs"][0] == -0.123456789
            assert len(top) == len({*range(count), token})


def test_what_is_impossible_is_still_json() -> None:
    scored = ScoredToken(1, -math.inf, ((0, 0.0), (1, -math.inf)))
    lists = CompletionLogprobs(TOKENIZER, 2).lists([scored])
    assert lists["token_logprobs"] == [LEAST] and json.dumps(lists, allow_nan=False)
    assert json.dumps(chat_logprobs(TOKENIZER, [scored], 2), allow_nan=False)


def test_tokens_that_were_not_chosen_have_none() -> None:
    forced = ScoredToken(65, None, is_forced=True)
    assert chat_logprobs(TOKENIZER, [forced, ScoredToken(256, -1.0)], 2) == []
    lists = CompletionLogprobs(TOKENIZER, 2).lists([forced])
    assert lists == {"tokens": ["A"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}


@given(text=texts, cut=st.integers(0, 80))
def test_offsets_are_those_of_the_text(text: str, cut: int) -> None:
    ids = [ScoredToken(token, -1.0) for token in text.encode()]
    lists = CompletionLogprobs(TOKENIZER, 0)
    offsets = lists.lists(ids[:cut])["text_offset"] + lists.lists(ids[cut:])["text_offset"]
    assert offsets == [len(text.encode()[:i].decode(errors="ignore")) for i in range(len(ids))]
