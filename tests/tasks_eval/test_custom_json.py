"""Conversations of the user's own: every mistake is named with file and line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.custom_json import make, part_of, read_conversations
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
        ('{"messages": "Hi"', "not JSON (Expecting ',' delimiter, column 18)"),
        ('{"instruction": "Hi", "output": "Hello!"}', "got an object with the fields instruction, output"),
        (
            '{"conversations": [{"from": "human", "value": "Hi"}]}',
            'rename: conversations to "messages", from to "role"',
        ),
        ("[" * 100_000, "lists in lists without end"),
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


def test_every_bad_line_is_counted_and_the_first_few_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"{\n" + json.dumps(GOOD).encode() + b"\n" + b"\xff\n" * 9)
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    message = str(caught.value)
    assert f"{path}:1: not JSON" in message and f"{path}:3: byte 1 is not UTF-8" in message
    assert message.endswith("; and 5 more bad lines, of 11")


def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    """Editors write a byte order mark or carriage returns, and text may hold separators that splitlines cuts at."""
    odd = [GOOD[0], {"role": "assistant", "content": "one\u2028two\x85three"}]
    path = tmp_path / "own.jsonl"
    lines = [json.dumps(GOOD), json.dumps(odd, ensure_ascii=False)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n{")
    with pytest.raises(DataError, match=r"own\.jsonl:3: "):
        read_conversations(path)
    path.write_text("\n".join(lines))
    assert read_conversations(path) == [{"messages": GOOD}, {"messages": odd}]


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


def conversation(number: int) -> Conversation:
    return {"messages": [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "One."}]}


@given(st.lists(st.integers(0, 40), max_size=60).filter(lambda numbers: len(set(numbers)) > 1))
def test_equal_conversations_are_on_one_side_and_neither_side_is_empty(numbers: list[int]) -> None:
    examples = [conversation(number) for number in numbers]
    train, test = part_of(examples, "train"), part_of(examples, "test")
    assert train and test and len(train) + len(test) == len(examples)
    assert not [example for example in train if example in test]


def test_about_a_tenth_is_for_testing_and_one_conversation_alone_is_refused() -> None:
    test = part_of([conversation(number) for number in range(1000)], "test")
    assert 70 < len(test) < 130
    with pytest.raises(DataError, match="CustomJSON has 1 different conversation"):
        part_of([conversation(1)] * 3, "train")


def test_a_file_is_cut_in_two_and_two_files_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(conversation(number)) + "\n" for number in range(50)))
    whole = TaskData(tmp_path, {"custom": {"all": ["own.jsonl"]}})
    assert len(make(whole, "train")) + len(make(whole, "test")) == 50
    two = TaskData(tmp_path, {"custom": {"train": ["own.jsonl"], "test": ["own.jsonl"]}})
    assert len(make(two, "train")) == len(make(two, "test")) == 50
