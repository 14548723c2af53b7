"""Rows of text: every document once an epoch, the same for any number of ranks and any source, continued exactly."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.artifacts import sha256_of
from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.data.lanes import lanes_of
from nanochat_core.data.loader import RowShape, TokenLoader
from nanochat_core.data.shards import write_shard
from nanochat_core.data.token_shards import build_token_shard
from nanochat_core.data.token_source import CachedTokens, EncodedTokens
from nanochat_core.errors import DataError, SpecError
from nanochat_core.specs import Packing
from tests.fakes import byte_tokenizer
from tests.nanochat_core.stages.stage_folders import documents

TOKENIZER = byte_tokenizer()
LONG = "long " * 200  # a document longer than several rows
TEXTS = [*documents(1400, seed=3), LONG, "", "x", *documents(300, seed=4), LONG]
PACKINGS: tuple[Packing, ...] = ("stream", "best_fit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of seven row groups in all, a tokenizer, and the shards' tokens."""
    folder = tmp_path_factory.mktemp("text")
    write_shard(folder / "a.parquet", TEXTS[:1001])
    write_shard(folder / "b.parquet", TEXTS[1001:])
    TOKENIZER.save(folder)
    return folder


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return [folder / "a.parquet", folder / "b.parquet"]


@pytest.fixture(scope="module")
def token_paths(folder: Path, paths: list[Path]) -> list[Path]:
    return [build_token_shard(path, sha256_of(path), folder, folder / "tokens") for path in paths]


class Loaders:
    """Makes loaders over the same text that differ in one thing."""

    def __init__(self, paths: list[Path], token_paths: list[Path]) -> None:
        self.paths, self.token_paths = paths, token_paths

    def make(
        self, packing: Packing, rank: int = 0, world_size: int = 1, *, rows: int = 8, workers: int | None = None
    ) -> TokenLoader:
        """Return a loader of tokenised shards, or of text that `workers` processes encode."""
        order = DocumentOrder(self.paths, lanes=lanes_of(rows, world_size), seed=5)
        own = range(rank, order.lanes, world_size)
        if workers is None:
            source = CachedTokens(self.token_paths, order)
        else:
            encoding = EncodingWorkers(TOKENIZER, self.paths[0].parent, workers)
            source = EncodedTokens(encoding, order, own, ahead=2)
        shape = RowShape.of(TOKENIZER, sequence_len=64, rows_per_step=rows, packing=packing)
        return TokenLoader(order, source, own, shape)


@pytest.fixture(scope="module")
def loaders(paths: list[Path], token_paths: list[Path]) -> Loaders:
    return Loaders(paths, token_paths)


def rows_of(rows: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, rows.tolist()))


def lane_documents(paths: list[Path], lane: int, lanes: int, seed: int = 5) -> list[str]:
    """Return what a lane must read in the first epoch, the obvious way."""
    order = DocumentOrder(paths, lanes=lanes, seed=seed)
    halves = (TEXTS[:1001], TEXTS[1001:])
    groups = [half[first : first + 256] for half in halves for first in range(0, len(half), 256)]
    firsts = np.cumsum([0, *map(len, groups)])
    turns = [order.group(turn) for turn in range(len(groups))]
    assert sorted(turns) == list(range(len(groups)))
    return [text for turn in turns for index, text in enumerate(groups[turn], firsts[turn]) if index % lanes == lane]


def test_a_stream_is_each_lane_s_documents_in_order_with_bos_in_front(loaders: Loaders, paths: list[Path]) -> None:
    one = loaders.make("stream")
    steps = [one.rows() for _ in range(40)]
    for lane in range(8):
        texts = lane_documents(paths, lane, 8)
        expected = [token for text in texts if text for token in (TOKENIZER.bos, *TOKENIZER.encode(text))]
        read = np.stack([rows[lane] for rows in steps])
        assert read[:, :-1].flatten().tolist() == expected[: 40 * 64]
        assert read[:, -1].tolist() == expected[64 : 40 * 64 + 1 : 64]


def test_best_fit_gives_every_token_of_an_epoch_once(loaders: Loaders, paths: list[Path]) -> None:
    one = loaders.make("best_fit")
    given_out = np.zeros((8, 256), int)
    while one.epoch < 1:
        for lane, row in enumerate(one.rows()):
            assert row[0] == TOKENIZER.bos
            given_out[lane] += np.bincount(row[row < 256], minlength=256)
    for lane in range(8):
        waiting = one._own[lane].packer.pieces()
        first_epoch = [piece.tokens for piece in waiting if piece.turn < 7]
        second_epoch = one._own[lane].packer.counts.documents - len(lane_documents(paths, lane, 8))
        text = "".join(lane_documents(paths, lane, 8)).encode()
        if not second_epoch:
            given_out[lane] += np.bincount(np.concatenate([*first_epoch, np.empty(0, int)]).astype(int), minlength=256)
            assert given_out[lane].tolist() == np.bincount(np.frombuffer(text, np.uint8), minlength=256).tolist()
    assert any(lane.packer.counts.documents == len(lane_documents(paths, lane.number, 8)) for lane in one._own)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_the_rows_of_a_step_do_not_depend_on_the_number_of_ranks(
    loaders: Loaders, packing: Packing, world_size: int
) -> None:
    one, many = loaders.make(packing), [loaders.make(packing, rank, world_size) for rank in range(world_size)]
    for _ in range(30):
        expected, parts = one.rows(), [rank.rows() for rank in many]
        assert sum(map(len, parts)) == len(expected)
        assert rows_of(expected) == set().union(*map(rows_of, parts))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("workers", [0, 2])
def test_text_encoded_on_the_fly_gives_the_same_rows(loaders: Loaders, packing: Packing, workers: int) -> None:
    cached, encoded = loaders.make(packing), loaders.make(packing, workers=workers)
    while cached.epoch < 2:
        assert np.array_equal(cached.rows(), encoded.rows())
    encoded.close()


class Asked(EncodedTokens):
    """Remembers which documents it had encoded."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)  # type: ignore[arg-type]
        self.documents_asked: set[tuple[int, int]] = set()

    def _begin(self, turn: int, lanes: list[int]) -> object:  # type: ignore[override]
        group = self._order.group(turn)
        self.documents_asked |= {(group, index) for lane in lanes for index in self._order.own(turn, lane)}
        return super()._begin(turn, lanes)


def test_no_rank_tokenises_a_document_of_another(loaders: Loaders, paths: list[Path]) -> None:
    asked = []
    for rank in range(4):
        order = DocumentOrder(paths, lanes=8, seed=5)
        own = range(rank, 8, 4)
        source = Asked(EncodingWorkers(TOKENIZER, paths[0].parent, 0), order, own, ahead=2)
        shape = RowShape.of(TOKENIZER, sequence_len=64, rows_per_step=8, packing="best_fit")
        loader = TokenLoader(order, source, own, shape)
        while loader.epoch < 1:
            loader.rows()
        asked.append(source.documents_asked)
    assert sum(map(len, asked)) == len(set().union(*asked)) == len(TEXTS)


@pytest.mark.parametrize("workers", [None, 0])
@given(
    packing=st.sampled_from(PACKINGS),
    steps=st.integers(0, 400),
    worlds=st.sampled_from([(1, 2), (2, 1), (4, 3), (1, 1)]),
)
@settings(max_examples=12)
def test_a_loader_that_is_given_another_s_state_goes_on_exactly(
    loaders: Loaders, workers: int | None, packing: Packing, steps: int, worlds: tuple[int, int]
) -> None:
    before, after = worlds
    first = [loaders.make(packing, rank, before, workers=workers) for rank in range(before)]
    for _ in range(steps):
        for loader in first:
            loader.rows()
    state = {name: value for loader in first for name, value in loader.state().items()}
    second = [loaders.make(packing, rank, after, workers=workers) for rank in range(after)]
    for loader in second:
        loader.load(state)
    for _ in range(20):
        expected = set().union(*(rows_of(loader.rows()) for loader in first))
        assert expected == set().union(*(rows_of(loader.rows()) for loader in second))
    assert first[0].state().keys() <= state.keys()
    totals = [sum(loader.counts.documents for loader in group) for group in (first, second)]
    assert totals[0] == totals[1]


def test_a_loader_that_goes_on_keeps_no_documents_that_no_lane_will_ask_for(loaders: Loaders) -> None:
    first, second = loaders.make("best_fit", workers=0), loaders.make("best_fit", workers=0)
    while len({lane.next_turn for lane in first._own}) == 1:
        first.rows()
    second.load(first.state())  # some lanes are ahead of others
    while second.epoch < 3:
        second.rows()
    assert min(second._source._ready, default=99) >= min(lane.next_turn for lane in second._own)


def test_the_state_is_small(loaders: Loaders) -> None:
    loader = loaders.make("best_fit")
    for _ in range(100):
        loader.rows()
    assert sum(value.nbytes for value in loader.state().values()) < 8 * 256 * 4 * 8


def test_the_order_depends_on_seed_and_epoch(paths: list[Path]) -> None:
    orders = [DocumentOrder(paths, lanes=8, seed=seed) for seed in (5, 5, 6)]
    turns = [[order.group(turn) for turn in range(14)] for order in orders]
    assert turns[0] == turns[1] != turns[2]
    assert turns[0][:7] != turns[0][7:] and sorted(turns[0][:7]) == sorted(turns[0][7:])


def test_what_packing_did_is_counted(loaders: Loaders) -> None:
    loader = loaders.make("best_fit")
    while loader.epoch < 1:
        loader.rows()
    counts = loader.counts
    assert counts.rows % 8 == 0 and counts.documents >= len(TEXTS) and counts.empty >= 1
    assert counts.split > 100 and 0 < counts.cut < counts.rows  # most documents here are longer than 64 bytes


def test_there_are_as_many_lanes_for_any_number_of_ranks_and_none_goes_without() -> None:
    assert [lanes_of(768, ranks) for ranks in (1, 3, 7, 64)] == [64] * 4
    with pytest.raises(SpecError, match="768 rows a step go to 64 lanes, fewer than the 65 ranks"):
        lanes_of(768, 65)
    with pytest.raises(SpecError, match="12 rows a step go to 4 lanes, fewer than the 8 ranks"):
        lanes_of(12, 8)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("workers", [None, 0])
@pytest.mark.parametrize("steps", [0, 30, 200])
def test_a_loader_names_every_document_of_its_next_rows_and_goes_on_as_if_nobody_had_asked(
    loaders: Loaders, packing: Packing, workers: int | None, steps: int
) -> None:
    asked, other = (loaders.make(packing, 1, 2, workers=workers) for _ in range(2))
    for _ in range(steps):
        asked.rows()
        other.rows()
    texts = {"a.parquet": TEXTS[:1001], "b.parquet": TEXTS[1001:]}
    named = [texts[shard][number] for shard, numbers in asked.origins().items() for number in numbers]
    for row in other.rows():
        for part in bytes(row[row < 256].astype(np.uint8)).decode().split(".")[1:-1]:
            assert any(part in text for text in named)
    assert len(named) <= 4 * 65  # of four rows; each document has a token in one
    assert np.array_equal(asked.rows(), other.rows())


def test_fewer_documents_than_lanes_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", TEXTS[:3])
    with pytest.raises(DataError, match="hold 3 documents, fewer than the 8 lanes"):
        DocumentOrder([tmp_path / "a.parquet"], lanes=8, seed=0)


@pytest.mark.parametrize("packing", PACKINGS)
def test_fewer_row_groups_than_ranks_are_enough(tmp_path: Path, packing: Packing) -> None:
    write_shard(tmp_path / "a.parquet", TEXTS[:40])
    TOKENIZER.save(tmp_path)
    many = [Loaders([tmp_path / "a.parquet"], []).make(packing, rank, 8, workers=0) for rank in range(8)]
    rows = [loader.rows() for _ in range(50) for loader in many]
    assert all(row.shape == (1, 65) for row in rows)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_lane_of_empty_documents_ends_in_one_line(tmp_path: Path, packing: Packing) -> None:
    write_shard(tmp_path / "a.parquet", ["text"] * 7 + [""])
    TOKENIZER.save(tmp_path)
    with pytest.raises(DataError, match="All documents of lane 7 of 8 are empty"):
        Loaders([tmp_path / "a.parquet"], []).make(packing, workers=0).rows()
