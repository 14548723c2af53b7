"""Statistics of text against slow and obvious versions."""

import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.data.own.scripts import CLASSES, DIGITS, PUNCTUATION, count_classes
from nanochat_core.data.own.text_stats import measure

TEXTS = st.lists(st.text(max_size=40), max_size=30)


@given(TEXTS)
@settings(max_examples=100, deadline=None)  # the first call makes a table
def test_sizes_and_repetitions_are_those_of_the_obvious_count(texts: list[str]) -> None:
    found = measure(texts).as_dict()
    assert found["documents"] == len(texts)
    assert found["characters"] == sum(map(len, texts))
    assert found["bytes"] == sum(len(text.encode(errors="replace")) for text in texts)
    assert found["empty"] == sum(not text.strip() for text in texts)
    assert found["near_empty"] == sum(0 < len(text.strip()) < 8 for text in texts)
    assert found["duplicates"] == len(texts) - len(set(texts))
    plain = {" ".join(text.lower().split()) for text in texts}
    assert found["duplicates_but_for_case_and_blanks"] == len(texts) - len(plain)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
@settings(deadline=None)
def test_every_document_is_in_the_bar_of_its_length(lengths: list[int]) -> None:
    bars = measure("x" * length for length in lengths).histogram()
    for first, last, count in bars:
        assert count == sum(first <= length <= last for length in lengths)
    assert sum(count for _, _, count in bars) == len(lengths)
    assert bars[0][2] > 0 and bars[-1][2] > 0


@given(st.text(max_size=60))
@settings(deadline=None)
def test_every_character_is_in_one_class(text: str) -> None:
    counts = dict(zip(CLASSES, count_classes(text).tolist(), strict=True))
    assert sum(counts.values()) == len(text)
    kinds = [unicodedata.category(character)[0] for character in text if ord(character) < 0x3000]
    if len(kinds) == len(text):  # where the two libraries know the same characters
        assert counts[DIGITS] == kinds.count("N")
        assert counts[PUNCTUATION] == kinds.count("P") + kinds.count("S")


def test_letters_count_by_script() -> None:
    shares = measure(["aé", "Привет", "漢字かなカナ한국어", "12 ab."]).scripts()
    assert next(iter(shares)) == "Cyrillic"
    counts = {name: round(share * 19) for name, share in shares.items()}
    expected = {"Latin": 4, "Cyrillic": 6, "Han": 2, "Hiragana": 2, "Katakana": 2, "Hangul": 3}
    assert counts == expected


def test_nothing_at_all_has_statistics_too() -> None:
    found = measure([]).as_dict()
    assert found["documents"] == 0 and found["histogram"] == [] and found["scripts"] == {}
    assert np.isfinite(found["length"]["mean"])
