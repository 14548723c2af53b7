"""Validation text: the reference's rows, and a clear line where there are none."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat_core.data.packing import reference_rows
from nanochat_core.data.shards import write_shard
from nanochat_core.data.validation_rows import all_tokens, validation_rows
from nanochat_core.errors import DataError
from nanochat_core.specs import Packing
from tests.fakes import byte_tokenizer
from tests.nanochat_core.stages.stage_folders import documents

TOKENIZER = byte_tokenizer()
TEXTS = [*documents(300, seed=3), "", "x" * 500]
STREAM = [token for text in TEXTS for token in (TOKENIZER.bos, *TOKENIZER.encode(text))]
PACKINGS: tuple[Packing, ...] = ("stream", "best_fit")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("text") / "a.parquet"
    write_shard(path, TEXTS)
    return [path]


def test_validation_rows_of_a_stream_overlap_by_one_token(paths: list[Path]) -> None:
    rows = validation_rows(paths, TOKENIZER, sequence_len=16, max_tokens=1000, packing="stream")
    assert rows.shape == (62, 17)
    assert np.array_equal(rows[:, :-1].flatten(), STREAM[: 62 * 16])
    assert np.array_equal(rows[:, -1], STREAM[16 : 62 * 16 + 1 : 16])


@pytest.mark.parametrize("packing", PACKINGS)
def test_text_that_fills_no_row_is_refused(tmp_path: Path, packing: Packing) -> None:
    write_shard(tmp_path / "a.parquet", ["short"])
    with pytest.raises(DataError, match="does not fill one row of 16 tokens"):
        validation_rows([tmp_path / "a.parquet"], TOKENIZER, sequence_len=16, max_tokens=1000, packing=packing)


def test_validation_rows_of_best_fit_are_the_reference_s(paths: list[Path]) -> None:
    rows = validation_rows(paths, TOKENIZER, sequence_len=64, max_tokens=2000, packing="best_fit")
    expected = reference_rows((np.array(TOKENIZER.encode(text), int) for text in TEXTS), TOKENIZER.bos, 65)
    assert np.array_equal(rows, np.stack(list(itertools.islice(expected, 31))))


def test_all_tokens_are_the_documents_each_with_bos_in_front(paths: list[Path]) -> None:
    assert all_tokens(paths, TOKENIZER).tolist() == STREAM


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_row_group_without_rows_is_passed_over(tmp_path: Path, packing: Packing) -> None:
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for texts in ([], TEXTS[:200], [], TEXTS[200:]):
            writer.write_table(pa.table({"text": texts}, schema=schema))
    write_shard(tmp_path / "b.parquet", TEXTS)
    rows = [
        validation_rows([tmp_path / name], TOKENIZER, sequence_len=64, max_tokens=4000, packing=packing)
        for name in ("a.parquet", "b.parquet")
    ]
    assert torch.equal(*rows)
    assert all_tokens([tmp_path / "a.parquet"], TOKENIZER).tolist() == STREAM
