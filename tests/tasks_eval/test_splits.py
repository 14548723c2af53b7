"""Nothing that testing asks for was trained on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.errors import DataError
from tasks_eval.splits import split_of, split_words
from tasks_eval.task_data import TaskData


@given(st.text())
def test_a_key_belongs_to_one_split_for_ever(key: str) -> None:
    assert split_of(key) == split_of(key)


def test_about_a_tenth_of_all_keys_are_for_testing() -> None:
    share = sum(split_of(f"key {number}") == "test" for number in range(5000)) / 5000
    assert 0.08 < share < 0.12


def test_the_words_of_both_splits_are_disjoint_and_complete(data: TaskData) -> None:
    train, test = split_words(data, "train"), split_words(data, "test")
    assert not set(train) & set(test)
    assert sorted(train + test) == data.words()


def test_a_word_list_too_short_to_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("pear\n")
    data = TaskData(tmp_path, {"words": {"words": "words.txt"}})
    other = "test" if split_of("pear") == "train" else "train"
    with pytest.raises(DataError, match=f"None of the 1 words .* is for the {other} split"):
        split_words(data, other)
