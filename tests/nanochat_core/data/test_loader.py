"""The stream of training tokens: every document once, the same for any number of ranks, continued exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat_core.data.loader import TokenLoader, stream_rows
from nanochat_core.data.shards import write_shard
from nanochat_core.errors import DataError, SpecError
from tests.fakes import byte_tokenizer
from tests.nanochat_core.stages.stage_folders import documents

TOKENIZER = byte_tokenizer()
TEXTS = documents(700, seed=3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    halves = {folder / "a.parquet": TEXTS[:401], folder / "b.parquet": TEXTS[401:]}
    for path, texts in halves.items():
        write_shard(path, texts)
    return list(halves)


def loader(paths: list[Path], rank: int = 0, world_size: int = 1, rows: int = 8) -> TokenLoader:
    return TokenLoader(paths, TOKENIZER, sequence_len=16, rows_per_step=rows, rank=rank, world_size=world_size)


def lane_stream(lane: int, lanes: int) -> list[int]:
    """Return what a lane must read, the obvious way."""
    return [token for text in TEXTS[lane::lanes] for token in (TOKENIZER.bos, *TOKENIZER.encode(text))]


def test_each_lane_reads_its_documents_in_order_with_bos_in_front(paths: list[Path]) -> None:
    one = loader(paths)
    batches = [one.batch() for _ in range(40)]
    for lane in range(8):
        ids = torch.cat([idx[lane] for idx, _ in batches]).tolist()
        targets = torch.cat([targets[lane] for _, targets in batches]).tolist()
        expected = lane_stream(lane, 8)
        assert ids == expected[: len(ids)]
        assert targets == expected[1 : len(ids) + 1]


def rows_of(batch: tuple[Tensor, Tensor]) -> set[tuple[int, ...]]:
    return {tuple(row) for row in torch.cat(batch, dim=1).tolist()}


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_rows_of_a_step_do_not_depend_on_the_number_of_ranks(paths: list[Path], world_size: int) -> None:
    one, many = loader(paths), [loader(paths, rank, world_size) for rank in range(world_size)]
    for _ in range(20):
        assert rows_of(one.batch()) == set().union(*(rows_of(rank.batch()) for rank in many))


def test_a_checkpoint_goes_on_exactly_also_with_another_number_of_ranks(paths: list[Path]) -> None:
    one = loader(paths)
    for _ in range(7):
        one.batch()
    state = one.state()
    expected = [one.batch() for _ in range(1500)]  # beyond the end of the text: the next epoch
    assert one.epoch >= 1
    ranks = [loader(paths, rank, 2) for rank in range(2)]
    for rank in ranks:
        rank.load(state)
    for batch in expected:
        assert rows_of(batch) == rows_of(ranks[0].batch()) | rows_of(ranks[1].batch())


def test_ranks_that_do_not_divide_the_lanes_are_refused(paths: list[Path]) -> None:
    with pytest.raises(SpecError, match="which 3 ranks cannot share evenly"):
        loader(paths, world_size=3)


def test_too_few_documents_for_the_lanes_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", TEXTS[:3])
    with pytest.raises(DataError, match="fewer than 8 documents"):
        loader([tmp_path / "a.parquet"]).batch()


def test_validation_rows_are_one_stream_cut_with_one_token_of_overlap(paths: list[Path]) -> None:
    rows = stream_rows(paths, TOKENIZER, sequence_len=16, max_tokens=1000)
    stream = lane_stream(0, 1)
    assert rows.shape == (62, 17)
    assert np.array_equal(rows[:, :-1].flatten(), stream[: 62 * 16])
    assert np.array_equal(rows[:, -1], stream[16 : 62 * 16 + 1 : 16])


def test_text_that_fills_no_row_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", ["short"])
    with pytest.raises(DataError, match="6 tokens of text do not fill one row of 16"):
        stream_rows([tmp_path / "a.parquet"], TOKENIZER, sequence_len=16, max_tokens=1000)
