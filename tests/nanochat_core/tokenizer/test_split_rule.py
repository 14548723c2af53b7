"""One split rule in three spellings: the same pieces for any text."""

import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat_core.tokenizer.split_rule import PLAIN_PATTERN, SPLIT_PATTERN, UNPOSSESSIVE_PATTERN, cut_blank_runs

BLANKS = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b"
TEXT = st.text(st.one_of(st.sampled_from(BLANKS + "aZ1.'sſ"), st.characters(codec="utf-8")), max_size=40)


@given(TEXT)
@example("two  blanks")
@example("a blank\xa0 that is rare")
@settings(max_examples=1000)
def test_all_spellings_cut_alike(text: str) -> None:
    pieces = regex.findall(SPLIT_PATTERN, text)
    assert "".join(pieces) == text
    assert regex.findall(UNPOSSESSIVE_PATTERN, text) == pieces
    assert [piece for part in cut_blank_runs(text) for piece in regex.findall(PLAIN_PATTERN, part)] == pieces
