"""Reading the task_data artifact."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.errors import ArtifactError, DataError
from tasks_eval.task_data import TaskData


def test_rows_come_in_the_order_of_the_fixed_permutation(tmp_path: Path) -> None:
    for name, values in (("a", range(3)), ("b", range(3, 5))):
        pq.write_table(pa.table({"number": list(values)}), tmp_path / f"{name}.parquet")
    rows = TaskData(tmp_path, {"numbers": {"train": ["a.parquet", "b.parquet"]}}).rows("numbers", "train")
    expected = np.random.default_rng(42).permutation(5).tolist()
    assert [rows[index]["number"] for index in range(len(rows))] == expected


def test_a_split_that_is_not_there_is_named(data: TaskData) -> None:
    with pytest.raises(DataError, match="'gsm8k' has no part 'dev', it has test, train"):
        data.rows("gsm8k", "dev")


def test_a_corrupt_or_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    pq.write_table(pa.table({"number": pa.array([], pa.int64())}), tmp_path / "empty.parquet")
    data = TaskData(tmp_path, {"x": {"bad": ["bad.parquet"], "gone": ["gone.parquet"], "empty": ["empty.parquet"]}})
    for split in ("bad", "gone"):
        with pytest.raises(DataError, match=f"Cannot read x/{split}"):
            data.rows("x", split)
    with pytest.raises(DataError, match="has no rows"):
        data.rows("x", "empty")


def test_a_folder_without_an_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"Cannot read .*index.json"):
        TaskData.open(tmp_path)


def test_only_lower_case_ascii_words_count_each_once(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("pear\napple\nPear\npear\nnaïve\nit's\n", encoding="utf-8")
    data = TaskData(tmp_path, {"words": {"words": "words.txt"}})
    assert data.words() == ["apple", "pear"]
    (tmp_path / "words.txt").write_text("A B\n")
    with pytest.raises(DataError, match="no lower-case ASCII word"):
        data.words()
