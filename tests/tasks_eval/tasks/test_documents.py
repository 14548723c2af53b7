"""The task Documents: plain text in a mixture, by its share, learned whole."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.artifacts import StageFolder, read_json, write_json
from nanochat_core.data.own.document_files import copy_documents, pieces_of
from nanochat_core.errors import DataError
from nanochat_core.tokenizer.render import render_conversation
from tasks_eval.build_conversations import build
from tasks_eval.task import Task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.documents import make, part_of
from tests.fakes import byte_tokenizer
from tests.tasks_eval.test_build_conversations import stage_folder


def own_documents(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True)
    (folder / "notes.md").write_text("# Notes\n\nAll of them.")
    lines = [json.dumps({"text": f"def number_{n}():\n    return {n}\n"}) for n in range(count)]
    (folder / "code.jsonl").write_text("\n".join(lines))
    return folder


def test_documents_are_split_and_none_is_lost(tmp_path: Path) -> None:
    found = copy_documents(own_documents(tmp_path / "own"), tmp_path / "data")
    train, test = (make(TaskData(tmp_path / "data", {"documents": found}), split) for split in ("train", "test"))
    texts = [[task[index]["messages"][0]["content"] for index in range(len(task))] for task in (train, test)]
    assert len(train) + len(test) == 41 and len(test) > 0 and not set(texts[0]) & set(texts[1])
    assert "# Notes\n\nAll of them." in texts[0] + texts[1]


@given(st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=30, unique=True))
def test_neither_split_is_empty(texts: list[str]) -> None:
    train, test = part_of(texts, "train"), part_of(texts, "test")
    assert train and test and sorted(train + test) == sorted(texts)


@given(st.text("ab \n", max_size=60), st.integers(4, 20))
def test_pieces_are_short_enough_and_make_up_the_document(text: str, longest: int) -> None:
    pieces = list(pieces_of(text, longest))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= longest for piece in pieces) or not text


def test_a_mixture_holds_documents_by_their_share_and_all_of_them_but_the_first_token_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks_eval import mixture, task

    real = task.make_task
    monkeypatch.setattr(
        mixture, "make_task", lambda name, *rest: make(*rest) if name == "Documents" else real(name, *rest)
    )
    mixed = [{"task": "Documents", "weight": 1}, {"task": "Arithmetic", "weight": 3}]
    folder = stage_folder(tmp_path, "a", mixed, weighted_rows=80)
    data = tmp_path / "task_data" / "x"
    index = read_json(data / "index.json")
    index["datasets"]["documents"] = copy_documents(own_documents(tmp_path / "own"), data)
    write_json(data / "index.json", index)
    build(StageFolder(folder))
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    documents = [row for row in rows if row["source"] == "Documents"]
    assert len(rows) == 80 and len(documents) == 20
    tokenizer = byte_tokenizer()
    for row in documents:
        (message,) = json.loads(row["messages"])
        assert message["role"] == "document"
        assert row["ids"] == [tokenizer.bos, *tokenizer.encode(message["content"])]
        assert row["mask"] == [0] + [1] * (len(row["ids"]) - 1)
        with pytest.raises(DataError, match="role 'document', expected 'user'"):
            render_conversation(tokenizer, {"messages": [message]})


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = own_documents(tmp_path / "own")
    with (folder / "code.jsonl").open("a") as file:
        file.write("\nnot json")
    with pytest.raises(DataError, match=r"1 bad lines below .*code\.jsonl, line 41: no JSON"):
        copy_documents(folder, tmp_path / "data")
    (tmp_path / "one.txt").write_text("one")
    with pytest.raises(DataError, match="holds 1 different documents: at least 2 are needed"):
        copy_documents(tmp_path / "one.txt", tmp_path / "data")


def test_without_documents_what_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'documents' was not fetched .*: set task_data\.documents_path"):
        make(TaskData(tmp_path, {}), "train")


def test_documents_are_not_graded(tmp_path: Path) -> None:
    found = copy_documents(own_documents(tmp_path / "own"), tmp_path / "data")
    task: Task = make(TaskData(tmp_path / "data", {"documents": found}), "train")
    assert task.grading is None
