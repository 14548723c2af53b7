"""Conversations of the user's own: every mistake is named with file and line."""

import json
from pathlib import Path

import pytest

from nanochat_core.chat_format import read_jsonl_conversations
from nanochat_core.errors import DataError

GOOD = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def test_objects_and_bare_lists_of_messages_are_read_and_blank_lines_skipped(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"messages": GOOD}) + "\n\n" + json.dumps(GOOD) + "\n")
    assert read_jsonl_conversations(path) == [{"messages": GOOD}] * 2


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
        (json.dumps([{"role": "system"}, *GOOD]), "Message 0 (system) has content of type NoneType"),
        (json.dumps([{"role": "system", "content": ["Be brief."]}, *GOOD]), "Message 0 (system) has content of type"),
        ("[" + "1" * 5000 + "]", "a number of thousands of digits"),
        (json.dumps([GOOD[0], {"role": "assistant", "content": [{"type": "image"}]}]), "a part is"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"own\.jsonl:2: ") as caught:
        read_jsonl_conversations(path)
    assert reason in str(caught.value)


def test_every_bad_line_is_counted_and_the_first_few_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"{\n" + json.dumps(GOOD).encode() + b"\n" + b"\xff\n" * 9)
    with pytest.raises(DataError) as caught:
        read_jsonl_conversations(path)
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
        read_jsonl_conversations(path)
    path.write_text("\n".join(lines))
    assert read_jsonl_conversations(path) == [{"messages": GOOD}, {"messages": odd}]


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*nothing\.jsonl"):
        read_jsonl_conversations(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no conversations"):
        read_jsonl_conversations(tmp_path / "empty.jsonl")
