"""Conversations of the user's own: every mistake is named with file and line."""

import json
from pathlib import Path

import pytest

from nanochat_core.errors import DataError
from tasks_eval.custom_json import make, read_conversations
from tasks_eval.hub import TaskData

GOOD = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def test_objects_and_bare_lists_of_messages_are_read_and_blank_lines_skipped(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"messages": GOOD}) + "\n\n" + json.dumps(GOOD) + "\n")
    assert read_conversations(path) == [{"messages": GOOD}] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("3", "expected"),
        ('{"text": "Hi"}', "expected"),
        ('["Hi"]', "expected"),
        ("[]", "needs at least one message"),
        (json.dumps(GOOD[:1]), "needs a question and an answer"),
        (json.dumps(GOOD[::-1]), "role 'assistant', expected 'user'"),
        (json.dumps([{"role": "user", "content": 3}, GOOD[1]]), "content of type int"),
        (json.dumps([GOOD[0], {"role": "assistant", "content": [{"type": "image"}]}]), "a part is"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"own\.jsonl:2: ") as caught:
        read_conversations(path)
    assert reason in str(caught.value)


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*nothing\.jsonl"):
        read_conversations(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no conversations"):
        read_conversations(tmp_path / "empty.jsonl")


def test_the_task_reads_the_files_of_the_data_set_custom(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(GOOD) + "\n")
    task = make(TaskData(tmp_path, {"custom": {"train": ["own.jsonl"]}}), "train")
    assert len(task) == 1 and task[0] == {"messages": GOOD}
