"""Packing: nothing lost, nothing reordered, the best fit taken; against slow and obvious versions of it."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nanochat_core.data.packing import BestFitPacker, LengthBuckets, Piece, StreamPacker, reference_rows
from tests.parity.golden_tokenizer import GOLDEN

BOS = 0
LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=60)


def make_documents(lengths: list[int]) -> list[np.ndarray]:
    """Return documents in which every token is a number of its own, from 1."""
    return np.split(np.arange(1, sum(lengths) + 1), np.cumsum(lengths)[:-1])


def feed(documents: list[np.ndarray], at_a_time: int = 3) -> Iterator[list[Piece]]:
    """Yield pieces a few at a time, and raise StopIteration at the end."""
    pieces = (Piece(tokens, 0, index, 0) for index, tokens in enumerate(documents))
    while batch := list(itertools.islice(pieces, at_a_time)):
        yield batch


def packed(packer: BestFitPacker | StreamPacker, row_tokens: int) -> list[np.ndarray]:
    """Return rows until the documents are used up."""
    rows = []
    try:
        while True:
            row = np.full(row_tokens, -1)
            packer.fill(row)
            rows.append(row)
    except StopIteration:
        return rows


def pieces_of(row: np.ndarray) -> list[list[int]]:
    return [piece[1:].tolist() for piece in np.split(row, np.flatnonzero(row == BOS))[1:]]


@given(LENGTHS, st.integers(2, 24), st.integers(1, 20))
@settings(max_examples=300)
def test_best_fit_loses_no_token_repeats_none_and_reorders_none(lengths: list[int], longest: int, buffer: int) -> None:
    documents = make_documents(lengths)
    source = feed(documents)
    packer = BestFitPacker(BOS, longest, lambda: next(source), buffer_documents=buffer)
    rows = packed(packer, longest + 1)
    given_out = [piece for row in rows for piece in pieces_of(row)]
    waiting = [piece.tokens.tolist() for piece in packer.pieces()]
    unfinished = sum(lengths) - sum(map(len, given_out)) - sum(map(len, waiting))
    assert 0 <= unfinished <= longest  # of the row that the end of the documents left half full
    seen = sorted(token for piece in [*given_out, *waiting] for token in piece)
    assert len(seen) == len(set(seen))
    counts = packer.counts
    assert counts.read == sum(lengths) and counts.placed == sum(map(len, given_out))
    document_of = {token: index for index, tokens in enumerate(documents) for token in tokens.tolist()}
    for row in rows:
        assert row[0] == BOS and (row >= 0).all()
    for piece in given_out:
        assert piece == list(range(piece[0], piece[0] + len(piece))) if piece else True
        assert len({document_of[token] for token in piece}) <= 1


@given(LENGTHS, st.integers(2, 24))
@settings(max_examples=200)
def test_a_stream_is_its_documents_one_after_the_other(lengths: list[int], row_tokens: int) -> None:
    documents = make_documents(lengths)
    source = feed(documents)
    packer = StreamPacker(BOS, lambda: next(source))
    rows = packed(packer, row_tokens)
    counts = packer.counts
    assert counts.placed == sum(int((row[:-1] != BOS).sum()) for row in rows)
    stream = [token for tokens in documents if len(tokens) for token in (BOS, *tokens.tolist())]
    assert len(rows) == max(0, len(stream) - 1) // (row_tokens - 1)
    for index, row in enumerate(rows):
        assert row.tolist() == stream[index * (row_tokens - 1) :][:row_tokens]


class LinearScan:
    """The obvious version of LengthBuckets."""

    def __init__(self) -> None:
        self.waiting: list[Piece] = []

    def add(self, piece: Piece) -> None:
        self.waiting.append(piece)

    def take_longest(self, at_most: int) -> Piece | None:
        fitting = [piece for piece in self.waiting if len(piece.tokens) <= at_most]
        return self._take(max(fitting, key=lambda piece: len(piece.tokens))) if fitting else None

    def take_shortest(self) -> Piece:
        return self._take(min(self.waiting, key=lambda piece: len(piece.tokens)))

    def _take(self, piece: Piece) -> Piece:
        self.waiting = [other for other in self.waiting if other is not piece]
        return piece


@given(st.lists(st.tuples(st.sampled_from(["add", "longest", "shortest"]), st.integers(0, 30)), max_size=80))
@settings(max_examples=300)
def test_buckets_find_what_a_linear_scan_finds(actions: list[tuple[str, int]]) -> None:
    buckets, scan = LengthBuckets(30), LinearScan()
    for number, (action, size) in enumerate(actions):
        if action == "add":
            piece = Piece(np.zeros(size), number, 0, 0)
            buckets.add(piece)
            scan.add(piece)
        elif action == "longest":
            assert buckets.take_longest(size) is scan.take_longest(size)
        elif scan.waiting:
            assert buckets.take_shortest() is scan.take_shortest()
        assert buckets.size == len(scan.waiting)
        assert buckets.tokens == sum(len(piece.tokens) for piece in scan.waiting)
        assert [piece.turn for piece in buckets.pieces()] == [piece.turn for piece in scan.waiting]


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_no_token_is_wasted_after_any_row(packing: str) -> None:
    source = feed(make_documents(np.random.default_rng(0).integers(0, 60, 400).tolist()))

    def more() -> list[Piece]:
        return next(source)

    packer = StreamPacker(BOS, more) if packing == "stream" else BestFitPacker(BOS, 20, more, buffer_documents=16)
    for _ in range(200):
        packer.fill(np.empty(21, int))
        assert packer.counts.read > 0 == packer.counts.wasted
        assert packer.counts.waiting == sum(int((piece.tokens != BOS).sum()) for piece in packer.pieces())


def test_documents_longer_than_a_row_fill_rows_instead_of_the_buffer() -> None:
    documents = make_documents([25, 3, 25, 3, 25, 3])
    source = feed(documents)
    packer = BestFitPacker(BOS, 8, lambda: next(source), buffer_documents=4)
    rows = packed(packer, 9)
    assert packer.counts.split == 3
    assert sum(len(piece) == 8 for row in rows for piece in pieces_of(row)) >= 8


def test_the_reference_s_packing_is_reproduced_exactly() -> None:
    golden = load_file(GOLDEN / "packing.safetensors")
    documents = np.split(golden["document_ids"], np.cumsum(golden["document_lengths"])[:-1])
    rows = itertools.islice(reference_rows(itertools.cycle(documents), 0, 257), len(golden["rows"]))
    assert np.array_equal(np.stack(list(rows)), golden["rows"])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_reference_s_packing_ends_with_the_documents(count: int) -> None:
    documents = make_documents([4] * count) if count else []
    assert [row.tolist() for row in reference_rows(documents, BOS, 5)] == [[BOS, *tokens] for tokens in documents]
