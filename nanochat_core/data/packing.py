"""How documents become rows of T + 1 tokens: one endless stream, or best fit without a lost token. Torch-free.

`StreamPacker` (the reference's loader of October 2025): documents, each with BOS in front, one after the other; a row
is the next T + 1 tokens, and its last token is the next row's first.

`BestFitPacker` (the reference's of 2026, mended): every row begins with BOS, and is filled with the longest document
that fits what is left of it. Where none fits, the shortest is cut to fill the row, and the rest of it goes back as a
document of its own. Documents longer than a row are cut into rows before they enter, since they would fit nowhere and
pile up until the buffer holds nothing else. Nothing is padded and nothing is thrown away; the reference loses about a
third of the tokens.

`reference_rows` is the reference's packer, kept as it is for validation, so that bits per byte can be compared.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import NamedTuple, Protocol

import numpy as np

BUFFER_DOCUMENTS = 256  # from which the best fit is chosen; 64 would cut 5 % more documents, 1,024 would cut 15 % fewer
REFERENCE_BUFFER, REFERENCE_REFILL = 1000, 128


class Piece(NamedTuple):
    """A document, or what is left of one. `tokens` are its ids without BOS; the rest says where they come from."""

    tokens: np.ndarray
    turn: int  # which row group, counted over all epochs
    document: int  # which of the lane's documents in it
    start: int  # how many of its tokens are gone; in a stream BOS is the first of them

    def rest(self, taken: int) -> "Piece":
        """Return the piece without its first `taken` tokens."""
        return self._replace(tokens=self.tokens[taken:], start=self.start + taken)


@dataclass
class PackingCounts:
    """What packing has done so far. `cut` are documents that a row's end divided, `split` those longer than a row.

    `read` are the tokens of the documents that came, `placed` those that stand in rows, `waiting` those that will; BOS
    counts in none of them. What is left of `read` is wasted.
    """

    documents: int = 0
    empty: int = 0
    cut: int = 0
    split: int = 0
    rows: int = 0
    read: int = 0
    placed: int = 0
    waiting: int = 0

    @property
    def wasted(self) -> int:
        """Tokens that are in no row and will be in none."""
        return self.read - self.placed - self.waiting

    def came(self, piece: Piece) -> None:
        """Count a new document."""
        self.documents += 1
        self.empty += not len(piece.tokens)
        self.read += len(piece.tokens)
        self.waiting += len(piece.tokens)

    def went(self, tokens: int) -> None:
        """Count tokens that have been put into a row."""
        self.placed += tokens
        self.waiting -= tokens

    @classmethod
    def total(cls, counts: Iterable["PackingCounts"]) -> "PackingCounts":
        """Return the sums over some packers."""
        return cls(*map(sum, zip(*map(astuple, counts), strict=True)))


class Packer(Protocol):
    """Fills rows from the pieces that `more` brings. A packer that is given another's `pieces` continues exactly."""

    counts: PackingCounts

    def fill(self, row: np.ndarray) -> None:
        """Write T + 1 tokens into `row`."""
        ...

    def pieces(self) -> list[Piece]:
        """Return what is waiting, in order."""
        ...

    def restore(self, pieces: Iterable[tuple[Piece, int]]) -> None:
        """Let another packer's `pieces` wait: each now with its whole document, and the tokens that it had left."""
        ...


class LengthBuckets:
    """Pieces by length. The longest that fits, and the shortest, are found in a bit mask of the lengths there are.

    So a placement costs the same however many documents wait: a few operations on an integer of `longest length` bits
    (32 words for T = 2,048). Among equals the first to come is the first to go.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, deque[tuple[int, Piece]]] = {}
        self._mask = 0
        self._size = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return self._size

    def add(self, piece: Piece) -> None:
        length = len(piece.tokens)
        bucket = self._buckets.get(length)
        if bucket is None:
            bucket = self._buckets[length] = deque()
        bucket.append((self._arrivals, piece))
        self._mask |= 1 << length
        self._arrivals += 1
        self._size += 1

    def take_longest(self, at_most: int) -> Piece | None:
        """Remove and return the longest piece of at most so many tokens; None where all are longer."""
        fitting = self._mask & ((2 << at_most) - 1)
        return self._take(fitting.bit_length() - 1) if fitting else None

    def take_shortest(self) -> Piece:
        """Remove and return the shortest piece; there must be one."""
        return self._take((self._mask & -self._mask).bit_length() - 1)

    def _take(self, length: int) -> Piece:
        bucket = self._buckets[length]
        _, piece = bucket.popleft()
        if not bucket:
            self._mask ^= 1 << length
        self._size -= 1
        return piece

    def pieces(self) -> list[Piece]:
        """Return all pieces in the order in which they came."""
        waiting = [item for bucket in self._buckets.values() for item in bucket]
        return [piece for _, piece in sorted(waiting, key=lambda item: item[0])]


class BestFitPacker:
    """Rows of documents, each with BOS in front; `longest` is T, what a row holds of a document."""

    def __init__(self, bos: int, longest: int, more: Callable[[], Iterable[Piece]], *, buffer_documents: int) -> None:
        self.counts = PackingCounts()
        self._bos, self._longest, self._more = bos, longest, more
        self._buffer_documents = buffer_documents
        self._buckets = LengthBuckets()

    def fill(self, row: np.ndarray) -> None:
        used, end = 0, len(row)
        while used < end:
            while len(self._buckets) < self._buffer_documents:
                for piece in self._more():
                    self._enter(piece)
            piece = self._buckets.take_longest(end - used - 1)
            if piece is None:
                piece = self._cut(self._buckets.take_shortest(), end - used - 1)
            row[used] = self._bos
            used += 1 + len(piece.tokens)
            row[used - len(piece.tokens) : used] = piece.tokens
            self.counts.went(len(piece.tokens))
        self.counts.rows += 1

    def _enter(self, piece: Piece) -> None:
        """Add a new document, cut into rows where it is longer than one."""
        self.counts.came(piece)
        self.counts.split += len(piece.tokens) > self._longest
        while len(piece.tokens) > self._longest:
            self._buckets.add(piece._replace(tokens=piece.tokens[: self._longest]))
            piece = piece.rest(self._longest)
        if len(piece.tokens):
            self._buckets.add(piece)

    def _cut(self, piece: Piece, space: int) -> Piece:
        """Return the first `space` tokens of a piece that is longer; the rest waits again."""
        self.counts.cut += space > 0
        self._buckets.add(piece.rest(space))
        return piece._replace(tokens=piece.tokens[:space])

    def pieces(self) -> list[Piece]:
        return self._buckets.pieces()

    def restore(self, pieces: Iterable[tuple[Piece, int]]) -> None:
        self._buckets = LengthBuckets()
        for piece, length in pieces:
            self._buckets.add(piece._replace(tokens=piece.tokens[piece.start : piece.start + length]))


class StreamPacker:
    """One stream of documents, each with BOS in front, cut every T tokens."""

    def __init__(self, bos: int, more: Callable[[], Iterable[Piece]]) -> None:
        self.counts = PackingCounts()
        self._bos, self._more = bos, more
        self._waiting: deque[Piece] = deque()
        self._held = 0  # tokens waiting, BOS included

    def fill(self, row: np.ndarray) -> None:
        while self._held < len(row):
            for piece in self._more():
                self.counts.came(piece)
                self._enter(piece)
        self._copy(row)
        self._advance(len(row) - 1)
        self.counts.rows += 1

    def _enter(self, piece: Piece) -> None:
        if len(piece.tokens):
            with_bos = np.concatenate([np.asarray([self._bos], piece.tokens.dtype), piece.tokens])[piece.start :]
            self._waiting.append(piece._replace(tokens=with_bos))
            self._held += len(with_bos)

    def _copy(self, row: np.ndarray) -> None:
        used = 0
        for piece in self._waiting:
            size = min(len(piece.tokens), len(row) - used)
            row[used : used + size] = piece.tokens[:size]
            used += size
            if used == len(row):
                return

    def _advance(self, tokens: int) -> None:
        self._held -= tokens
        self.counts.went(tokens)
        while tokens >= len(self._waiting[0].tokens):
            gone = self._waiting.popleft()
            tokens -= len(gone.tokens)
            self.counts.went(-(gone.start == 0))  # its BOS
        if tokens and self._waiting[0].start == 0:
            self.counts.cut += 1
            self.counts.went(-1)
        self._waiting[0] = self._waiting[0].rest(tokens)

    def pieces(self) -> list[Piece]:
        return list(self._waiting)

    def restore(self, pieces: Iterable[tuple[Piece, int]]) -> None:
        self._waiting.clear()
        self._held = 0
        for piece, _ in pieces:
            self._enter(piece)


def reference_rows(documents: Iterable[np.ndarray], bos: int, row_tokens: int) -> Iterator[np.ndarray]:
    """Yield rows (T + 1,) as the reference packs them; what no longer fills a row at the end is left out.

    `documents` are ids without BOS. Before every single pick, while the buffer holds fewer than 1,000 documents, the
    next 128 come in; the longest that fits is taken, else the shortest, whose end is thrown away.
    """
    source = iter(documents)
    buckets = LengthBuckets()
    while True:
        row, used = np.empty(row_tokens, np.int64), 0
        while used < row_tokens:
            _refill(buckets, source)
            if not len(buckets):
                return
            piece = buckets.take_longest(row_tokens - used - 1) or buckets.take_shortest()
            size = min(len(piece.tokens), row_tokens - used - 1)
            row[used] = bos
            row[used + 1 : used + 1 + size] = piece.tokens[:size]
            used += 1 + size
        yield row


def _refill(buckets: LengthBuckets, source: Iterator[np.ndarray]) -> None:
    while len(buckets) < REFERENCE_BUFFER:
        before = len(buckets)
        for _, tokens in zip(range(REFERENCE_REFILL), source, strict=False):
            buckets.add(Piece(tokens, 0, 0, 0))
        if len(buckets) == before:
            return
