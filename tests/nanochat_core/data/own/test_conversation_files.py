"""The user's own conversations on their way into the task data."""

import json
import os
from pathlib import Path

import pytest

from nanochat_core.chat_format import read_jsonl_conversations
from nanochat_core.data.own.conversation_files import (
    conversation_files,
    copy_conversations,
    state_of_conversations,
)
from nanochat_core.errors import DataError

LINE = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]) + "\n"


def test_a_file_is_copied_whole_and_a_folder_by_its_splits(tmp_path: Path) -> None:
    file, folder = tmp_path / "own.jsonl", tmp_path / "own"
    folder.mkdir()
    for path, times in ((file, 3), (folder / "train.jsonl", 2), (folder / "test.jsonl", 1)):
        path.write_text(LINE * times)
    assert copy_conversations(file, tmp_path / "a") == {"all": ["data/custom/all.jsonl"]}
    assert (tmp_path / "a/data/custom/all.jsonl").read_text() == LINE * 3
    found = copy_conversations(folder, tmp_path / "b")
    assert found == {"train": ["data/custom/train.jsonl"], "test": ["data/custom/test.jsonl"]}
    assert (tmp_path / "b/data/custom/test.jsonl").read_text() == LINE


def test_a_bad_line_is_named_in_the_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(LINE + "{\n")
    with pytest.raises(DataError, match=rf"{tmp_path}/own\.jsonl:2: not JSON"):
        copy_conversations(tmp_path / "own.jsonl", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no train\.jsonl and no test\.jsonl: put .* or name one JSONL file \(task_data\."
    ):
        conversation_files(tmp_path)
    with pytest.raises(DataError, match=r"There is no file .*nothing\.jsonl: name one .* \(task_data\.custom_path"):
        conversation_files(tmp_path / "nothing.jsonl")


def test_the_state_changes_when_a_file_was_written_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    assert state_of_conversations(path) is None
    path.write_text(LINE)
    first = state_of_conversations(path)
    assert first == state_of_conversations(path) is not None
    os.utime(path, ns=(1, 1))
    assert state_of_conversations(path) != first


def test_other_formats_are_copied_in_ours_and_ours_byte_for_byte(tmp_path: Path) -> None:
    alpaca = tmp_path / "alpaca.json"
    alpaca.write_text(json.dumps([{"instruction": "Grüß", "output": "Hi!"}] * 2))
    copy_conversations(alpaca, tmp_path / "a")
    written = tmp_path / "a/data/custom/all.jsonl"
    messages = [{"role": "user", "content": "Grüß"}, {"role": "assistant", "content": "Hi!"}]
    assert read_jsonl_conversations(written) == [{"messages": messages}] * 2
    ours = tmp_path / "ours.jsonl"
    ours.write_text("  " + LINE + "\n")
    copy_conversations(ours, tmp_path / "b")
    assert (tmp_path / "b/data/custom/all.jsonl").read_bytes() == ours.read_bytes()


def test_the_splits_of_a_folder_may_be_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    (tmp_path / "train.md").write_text("notes")
    (tmp_path / "test.jsonl").write_text(LINE)
    assert {split: path.name for split, path in conversation_files(tmp_path).items()} == {
        "train": "train.json",
        "test": "test.jsonl",
    }
