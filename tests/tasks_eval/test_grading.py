"""Graders read answers as people would, and nothing more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_eval.grading import final_number, grade, marked_number, spelled_word

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=12)


@given(WORDS)
def test_a_spelled_word_is_read_back(word: str) -> None:
    assert spelled_word(",".join(word)) == word
    assert spelled_word(f"{word}:{', '.join(word)}.") == word


@given(WORDS, st.integers(0, 11))
def test_a_spelling_with_a_letter_missing_is_wrong(word: str, place: int) -> None:
    place %= len(word)
    cut = ",".join(word[:place] + word[place + 1 :])
    assert not grade({"grading": "spelled_word", "answer": word}, cut).is_correct


@pytest.mark.parametrize("text", ["apple", "", "a,pp,l,e", "a p p l e", "a,p,p,l,e and more", "1,2,3"])
def test_what_is_not_spelled_in_single_letters_is_no_spelling(text: str) -> None:
    assert spelled_word(text) is None


@given(st.integers(-(10**9), 10**9))
def test_numbers_are_read_with_and_without_thousands_separators(number: int) -> None:
    assert marked_number(f"so\n#### {number:,}") == str(number)
    assert final_number(f"12*7 = {number:,}.") == str(number)
    assert final_number(f"It is {number}") == str(number)


@pytest.mark.parametrize(
    ("text", "number"), [("12*7 = ", None), ("", None), ("12*7", "7"), ("3-5 = -2", "-2"), ("1/2 = 0.5", "0.5")]
)
def test_the_final_number_stands_after_the_last_equals_sign(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_a_number_without_its_mark_is_no_gsm8k_answer() -> None:
    assert not grade({"grading": "marked_number", "answer": "84"}, "It is 84").is_correct
    assert not grade({"grading": "marked_number", "answer": "84"}, "#### 85").is_correct
    assert grade({"grading": "marked_number", "answer": "84"}, "#### 84.").is_correct


@pytest.mark.parametrize("grading", ["marked_number", "final_number"])
@pytest.mark.parametrize("said", ["5", "5.0", "$5", "$5.00", "$ 5", "5."])
def test_numbers_are_compared_as_such_where_that_is_asked_for(grading: str, said: str) -> None:
    meta = {"grading": grading, "answer": "5", "compare": "numbers"}
    assert grade(meta, f"It is #### {said}").is_correct
    assert grade(meta | {"answer": "$5.0"}, f"It is #### {said}").is_correct
    assert not grade(meta | {"answer": "5.01"}, f"It is #### {said}").is_correct
    assert not grade(meta | {"answer": "-5"}, f"It is #### {said}").is_correct
    assert grade(meta | {"answer": "-1,005"}, "#### -$1,005.00").is_correct
    assert not grade(meta, "").is_correct and not grade(meta | {"answer": "five"}, f"#### {said}").is_correct
