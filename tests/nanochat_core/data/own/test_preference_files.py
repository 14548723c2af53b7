"""Pairs of answers as people have them: every shape gives the same pair, and what is wrong is named with its line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.data.own.preference_files import pair_of, preference_files, read_preferences, state_of_preferences
from nanochat_core.errors import DataError

USER = {"role": "user", "content": "2+2?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SHAPES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "a conversation and texts": {"prompt": [USER], "chosen": "4", "rejected": "5"},
    "an answer as a message": {"prompt": "2+2?", "chosen": [said("4")], "rejected": [said("5")]},
    "whole conversations": {"chosen": [USER, said("4")], "rejected": [USER, said("5")]},
    "all of it": {"prompt": "2+2?", "chosen": [USER, said("4")], "rejected": [USER, said("5")], "score": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_pair_is_the_same_pair(shape: str) -> None:
    pair = pair_of(SHAPES[shape])
    assert (pair.prompt, pair.chosen, pair.rejected) == ([USER], "4", "5")


def test_a_system_message_is_merged_and_parts_stay_parts() -> None:
    parts = [{"type": "python", "text": "2+2"}, {"type": "python_output", "text": "4"}, {"type": "text", "text": "4"}]
    row = {"prompt": [{"role": "system", "content": "Be brief."}, USER], "chosen": parts, "rejected": "5"}
    pair = pair_of(row)
    assert pair.prompt == [{"role": "user", "content": "Be brief.\n\n2+2?"}]
    assert pair.conversation("chosen")["messages"][-1]["content"] == parts


WRONG = {
    "chosen is missing": ({"prompt": "a", "rejected": "b"}, "got the fields prompt, rejected"),
    "a null": ({"prompt": "a", "chosen": None, "rejected": "b"}, "expected prompt, chosen and rejected"),
    "no object": ([1], r"got \[1\]"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "there is no prompt"),
    "a number": ({"prompt": "a", "chosen": 4, "rejected": "b"}, "content of type int"),
    "two prompts": (
        {"chosen": [USER, said("4")], "rejected": [{"role": "user", "content": "3+3?"}, said("6")]},
        "different prompts",
    ),
    "the user ends": ({"prompt": "a", "chosen": [USER], "rejected": "b"}, "chosen ends with a message of 'user'"),
    "the assistant asks": ({"prompt": [USER, said("4")], "chosen": "a", "rejected": "b"}, "expected the user's"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_pair_is_refused_with_the_reason(case: str) -> None:
    row, reason = WRONG[case]
    with pytest.raises(DataError, match=reason):
        pair_of(row)


def test_a_file_names_the_lines_that_are_wrong_and_counts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    good = json.dumps(SHAPES["texts"])
    path.write_text("\n".join([good, "", "{", good, *['{"prompt": "a"}'] * 6]))
    with pytest.raises(DataError, match=r"pairs.jsonl:3: not JSON .*:5: expected.*and 2 more bad lines, of 9"):
        read_preferences(path)


def test_parquet_and_jsonl_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [SHAPES["whole conversations"], SHAPES["whole conversations"] | {"rejected": [USER, said("6")]}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    found = read_preferences(tmp_path / "pairs.parquet")
    assert found == read_preferences(tmp_path / "pairs.jsonl")
    assert [pair.rejected for pair in found] == ["5", "6"]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "pairs.csv").write_text("a,b\n")
    for name, reason in (("pairs.parquet", "Cannot read"), ("empty.jsonl", "holds no pairs")):
        with pytest.raises(DataError, match=reason):
            read_preferences(tmp_path / name)
    for name, reason in (
        ("pairs.csv", "is no .jsonl or .parquet"),
        ("nowhere", "There is no file"),
        ("", "has no files"),
    ):
        with pytest.raises(DataError, match=reason):
            preference_files(tmp_path / name)


def test_a_folder_has_a_train_and_a_test_file_and_its_state_follows_them(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(SHAPES["texts"]))
    assert state_of_preferences(tmp_path) is None
    (tmp_path / "test.parquet").write_bytes(b"1")
    assert {split: path.name for split, path in preference_files(tmp_path).items()} == {
        "train": "train.jsonl",
        "test": "test.parquet",
    }
    before = state_of_preferences(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"12")
    assert before != state_of_preferences(tmp_path)
