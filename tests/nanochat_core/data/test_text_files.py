import json
from pathlib import Path

import pytest

from nanochat_core.data.text_files import MAX_PLAIN_CHARACTERS, find_text_files, read_texts
from nanochat_core.errors import DataError


def test_files_are_found_in_order_and_hidden_ones_skipped(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a/one.jsonl", ".git/three.txt", "b/.four.md", "c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_text_files(tmp_path)] == ["one.jsonl", "two.txt"]


def test_a_missing_folder_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist: set download\.path"):
        find_text_files(tmp_path / "nowhere")


def test_long_files_are_cut_between_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"{i} " + "word " * 300 for i in range(30)]
    (tmp_path / "book.txt").write_text("\r\n\r\n".join(paragraphs), newline="")
    pieces = list(read_texts(tmp_path / "book.txt"))
    assert "\n\n".join(pieces) == "\n\n".join(paragraphs)
    assert len(pieces) > 1 and max(map(len, pieces)) <= MAX_PLAIN_CHARACTERS


def test_blank_documents_are_left_out_and_lone_surrogates_replaced(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("  \n", "half \ud800 a character", "whole")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert list(read_texts(tmp_path / "a.jsonl")) == ["half ? a character", "whole"]
