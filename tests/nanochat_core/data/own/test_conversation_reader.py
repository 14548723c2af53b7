"""Files of conversations of any format: every one is read, and what is bad is named with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.data.own.conversation_reader import read_conversation_file
from nanochat_core.errors import DataError

ALPACA = {"instruction": "Say hi.", "input": "", "output": "Hi!"}
DOLLY = {"instruction": "Say hi.", "context": "", "response": "Hi!"}
SHAREGPT = {"conversations": [{"from": "human", "value": "Say hi."}, {"from": "gpt", "value": "Hi!"}]}
HARMONY = "<|start|>user<|message|>Say hi.<|end|><|start|>assistant<|channel|>final<|message|>Hi!<|return|>"
OURS = {"messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi!"}]}


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def test_each_line_is_recognised_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(ALPACA, DOLLY, SHAREGPT, {"text": HARMONY}, HARMONY, OURS) + b"\n")
    read = read_conversation_file(path)
    assert read.conversations == [OURS] * 6 and not read.is_ours
    assert read.formats == {"Alpaca": 1, "Dolly": 1, "ShareGPT": 1, "Harmony": 2, "ours": 1}


def test_every_kind_of_file_gives_the_same(tmp_path: Path) -> None:
    values = [{**SHAREGPT, "system": "Be brief."}, SHAREGPT]
    (tmp_path / "a.jsonl").write_bytes(lines(*values))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(*values)))
    (tmp_path / "c.json").write_text(json.dumps(values, indent=1))
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "d.parquet")
    read = [read_conversation_file(path).conversations for path in sorted(tmp_path.iterdir())]
    assert len(read) == 4 and all(found == read[0] for found in read)
    assert [len(conversation["messages"]) for conversation in read[0]] == [3, 2]


def test_a_text_file_holds_conversations_as_harmony_renders_them(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text(f"{HARMONY}\n{HARMONY}\n")
    assert read_conversation_file(path).conversations == [OURS] * 2


BAD = {  # name of a file: (what is in it, what is said)
    "a.jsonl": (lines(ALPACA) + b"\n{\n" + lines({"x": 1}), ":3: not JSON", ":4: an object with the fields x"),
    "b.json": (json.dumps([ALPACA, 3]).encode(), ", item 2: expected an object", ""),
    "c.json": (b"{}", "c.json: expected a list of conversations", ""),
    "d.txt": (f"{HARMONY}\n{HARMONY[:-5]}".encode(), ":2: the last message does not end", ""),
    "e.txt": (b"Hello.", "e.txt: expected Harmony-rendered text", ""),
    "f.jsonl": (b"\xff\n", ":1: byte 1 is not UTF-8", ""),
    "g.txt": (b"\n\xff", ":2: not UTF-8", ""),
    "h.jsonl": (b"\n", "holds no conversations", ""),
    "i.parquet": (b"PAR1", "i.parquet cannot be read to its end", ""),
    "j.jsonl.gz": (gzip.compress(lines(ALPACA))[:-9], "j.jsonl.gz", ""),
    "k.csv": (b"a,b", "is not of a kind that holds conversations", ""),
    "m.jsonl": (b"[" + b"1" * 5000 + b"]\n{", ":1: a number of thousands of digits", ":2: not JSON"),
    "l.jsonl": (b"[" * 100_000, ":1: not a conversation, but lists in lists", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_bad_is_named_with_its_place(name: str, tmp_path: Path) -> None:
    content, *reasons = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_conversation_file(tmp_path / name)
    assert all(reason in str(caught.value) for reason in reasons)
    assert str(tmp_path / name) in str(caught.value)


def test_a_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ALPACA, {"instruction": "a"}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2: an object with the fields instruction"):
        read_conversation_file(tmp_path / "a.parquet")


def test_of_many_bad_lines_the_first_are_named_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(lines(ALPACA, *[{"x": n} for n in range(9)]))
    with pytest.raises(DataError, match=r"own\.jsonl:2: .*; and 4 more bad lines, of 10$"):
        read_conversation_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*nothing\.jsonl: No such file"):
        read_conversation_file(tmp_path / "nothing.jsonl")
