"""Runs of words as numbers, against a slow and obvious way to find them."""

import random
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks_eval.contamination.ngrams import BORDER, HashSet, blocks, words_of

# What stands between words, told by characters: all of ASCII that is no letter or digit, and some punctuation beyond.
BETWEEN = re.compile("[^a-zA-Z0-9\\x01\\x80-\\U0010ffff]|[\\x80-\\xbf\\u2000-\\u207f\\u3000-\\u303f]")
TEXTS = st.text(st.sampled_from("aB z9é’“…—。漢 \n\t'-_\x00\x01¿"), max_size=60) | st.text(max_size=40)


def slow_words(text: str) -> list[str]:
    spaced = BETWEEN.sub(" ", text)
    return [re.sub("[A-Z]", lambda found: found[0].lower(), word) for word in spaced.split(" ") if word]


@given(TEXTS)
def test_words_are_runs_of_letters_and_digits_in_any_script(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    encoded = text.encode()
    words = words_of(encoded)
    spans = zip(words.starts.tolist(), words.ends.tolist(), strict=True)
    assert slow_words(text) == [
        re.sub("[A-Z]", lambda found: found[0].lower(), encoded[first:end].decode()) for first, end in spans
    ]


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_runs_have_equal_hashes_where_their_words_are_equal_and_nowhere_else(a: str, b: str, length: int) -> None:
    seen: dict[int, tuple[str, ...]] = {}
    for text in (a.encode(errors="ignore").decode(), b.encode(errors="ignore").decode()):
        words, names = words_of(text.encode()), slow_words(text)
        runs = words.runs(length)
        assert len(runs) == max(0, len(names) - length + 1)
        for place, run in enumerate(runs.tolist()):
            assert seen.setdefault(run, tuple(names[place : place + length])) == tuple(names[place : place + length])
        some = np.arange(len(runs))[::2]
        assert words.runs(length, some).tolist() == runs[::2].tolist()
    assert len(set(seen.values())) == len(seen)


def test_case_punctuation_and_line_breaks_do_not_count() -> None:
    plain, other = (words_of(text.encode()) for text in ("the cat doesn't sit", "“The CAT…\ndoesn’t —sit!”"))
    assert plain.hashes.tolist() == other.hashes.tolist()
    assert words_of(b"the cat does not sit").runs(4)[0] != plain.runs(4)[0]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_a_set_finds_what_is_in_it_and_nothing_else(inside: list[int], others: list[int]) -> None:
    members = np.unique(np.array(inside, np.uint64))
    asked = np.array([*inside, *others, *inside], np.uint64)
    places, numbers = HashSet(members).find(asked)
    assert places.tolist() == [place for place, value in enumerate(asked.tolist()) if value in set(inside)]
    assert members[numbers].tolist() == asked[places].tolist()


def test_a_large_set_turns_nearly_everything_away_and_loses_nothing() -> None:
    values = np.unique(np.random.default_rng(0).integers(0, 2**64 - 1, 200_000, np.uint64))
    members, others = values[::2], values[1::2]
    found = HashSet(members)
    assert np.array_equal(found.find(members)[1], np.arange(len(members)))
    assert len(found.find(others)[0]) == 0


def test_no_run_goes_from_one_document_to_the_next() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice("ab c") for _ in range(rng.randrange(30))) for _ in range(50)]
    alone = {run for text in texts for run in words_of(text.encode()).runs(2).tolist()}
    (block,) = blocks(texts)
    border = words_of(BORDER.encode()).hashes[0]
    words = words_of(block)
    within = (words.hashes[:-1] != border) & (words.hashes[1:] != border)
    assert set(words.runs(2)[within].tolist()) == alone
    assert [len(words_of(part)) for part in blocks(["x " * 200_000] * 3)] == [200_001] * 3
