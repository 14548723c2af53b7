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
from dataclasses import dataclass
from functools import cache
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
        return Piece(self.tokens[taken:], self.turn, self.document, self.start + taken)


@dataclass
class PackingCounts:
    """What packing has done so far. `cut` are documents that a row's end divided, `split` those longer than a row.

    `read` are the tokens of the documents that came, `placed` those that stand in rows, `waiting` those that will; BOS
    counts in none of them.
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
        """Tokens that were read, are in no row, and will be in none."""
        return self.read - self.placed - self.waiting

    @property
    def numbers(self) -> tuple[int, ...]:
        """All fields, in order."""
        return tuple(vars(self).values())

    def came(self, tokens: np.ndarray) -> None:
        """Count a new document."""
        self.documents += 1
        self.empty += not len(tokens)
        self.read += len(tokens)

    @classmethod
    def total(cls, counts: Iterable["PackingCounts"]) -> "PackingCounts":
        """Return the sums over some packers."""
        return cls(*map(sum, zip(*(one.numbers for one in counts), strict=True)))


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
    (32 words for T = 2,048). Among equals the first to come is the first to go. `size` is the number of pieces,
    `tokens` their tokens; `longest_asked` bounds what `take_longest` will be asked for.
    """

    def __init__(self, longest_asked: int) -> None:
        self.size = self.tokens = 0
        self._buckets: dict[int, deque[tuple[int, Piece]]] = {}
        self._lengths = 0  # bit n is set where there is a piece of n tokens
        self._up_to = masks_up_to(longest_asked)
        self._arrivals = 0

    def add(self, piece: Piece) -> None:
        length = len(piece.tokens)
        bucket = self._buckets.get(length)
        if bucket is None:
            bucket = self._buckets[length] = deque()
        if not bucket:
            self._lengths |= 1 << length
        bucket.append((self._arrivals, piece))
        self._arrivals += 1
        self.size += 1
        self.tokens += length

    def take_longest(self, at_most: int) -> Piece | None:
        """Remove and return the longest piece of at most so many tokens; None where all are longer."""
        fitting = self._lengths & self._up_to[at_most]
        return self._take(fitting.bit_length() - 1) if fitting else None

    def take_shortest(self) -> Piece:
        """Remove and return the shortest piece; there must be one."""
        return self._take((self._lengths & -self._lengths).bit_length() - 1)

    def _take(self, length: int) -> Piece:
        bucket = self._buckets[length]
        _, piece = bucket.popleft()
        if not bucket:
            self._lengths ^= 1 << length
        self.size -= 1
        self.tokens -= length
        return piece

    def pieces(self) -> list[Piece]:
        """Return all pieces in the order in which they came."""
        waiting = [item for bucket in self._buckets.values() for item in bucket]
        return [piece for _, piece in sorted(waiting, key=lambda item: item[0])]


@cache
def masks_up_to(longest: int) -> list[int]:
    """Return, for each n up to `longest`, the number whose bits 0 to n are set."""
    return [(2 << length) - 1 for length in range(longest + 1)]


class BestFitPacker:
    """Rows of documents, each with BOS in front; `longest` is T, what a row holds of a document."""

    def __init__(self, bos: int, longest: int, more: Callable[[], Iterable[Piece]], *, buffer_documents: int) -> None:
        self.counts = PackingCounts()
        self._bos, self._longest, self._more = bos, longest, more
        self._buffer_documents = buffer_documents
        self._buckets = LengthBuckets(longest)

    def fill(self, row: np.ndarray) -> None:
        used, end, buckets, placed = 0, len(row), self._buckets, 0
        while used < end:
            if buckets.size < self._buffer_documents:
                self._refill()
            tokens = (buckets.take_longest(end - used - 1) or self._cut(end - used - 1)).tokens
            row[used] = self._bos
            first, used = used + 1, used + 1 + len(tokens)
            row[first:used] = tokens
            placed += len(tokens)
        self.counts.rows += 1
        self.counts.placed += placed
        self.counts.waiting = buckets.tokens

    def _refill(self) -> None:
        """Read documents until the buffer is full; those longer than a row enter as rows and a rest."""
        longest = self._longest
        while self._buckets.size < self._buffer_documents:
            for piece in self._more():
                self.counts.came(piece.tokens)
                self.counts.split += len(piece.tokens) > longest
                while len(piece.tokens) > longest:
                    self._buckets.add(Piece(piece.tokens[:longest], piece.turn, piece.document, piece.start))
                    piece = piece.rest(longest)
                if len(piece.tokens):
                    self._buckets.add(piece)

    def _cut(self, space: int) -> Piece:
        """Return the first `space` tokens of the shortest piece, which is longer; the rest waits again."""
        piece = self._buckets.take_shortest()
        self.counts.cut += space > 0
        self._buckets.add(piece.rest(space))
        return Piece(piece.tokens[:space], piece.turn, piece.document, piece.start)

    def pieces(self) -> list[Piece]:
        return self._buckets.pieces()

    def restore(self, pieces: Iterable[tuple[Piece, int]]) -> None:
        self._buckets = LengthBuckets(self._longest)
        for (tokens, turn, document, start), length in pieces:
            self._buckets.add(Piece(tokens[start : start + length], turn, document, start))


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
                self.counts.came(piece.tokens)
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
        self.counts.placed += tokens
        while tokens >= len(self._waiting[0].tokens):
            gone = self._waiting.popleft()
            tokens -= len(gone.tokens)
            self.counts.placed -= gone.start == 0  # its BOS
        if tokens and self._waiting[0].start == 0:
            self.counts.cut += 1
            self.counts.placed -= 1
        self._waiting[0] = self._waiting[0].rest(tokens)
        self.counts.waiting = self._held - sum(piece.start == 0 for piece in self._waiting)

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
    buckets = LengthBuckets(row_tokens)
    while True:
        row, used = np.empty(row_tokens, np.int64), 0
        while used < row_tokens:
            _refill(buckets, source)
            if not buckets.size:
                return
            piece = buckets.take_longest(row_tokens - used - 1) or buckets.take_shortest()
            size = min(len(piece.tokens), row_tokens - used - 1)
            row[used] = bos
            row[used + 1 : used + 1 + size] = piece.tokens[:size]
            used += 1 + size
        yield row


def _refill(buckets: LengthBuckets, source: Iterator[np.ndarray]) -> None:
    while buckets.size < REFERENCE_BUFFER:
        before = buckets.size
        for _, tokens in zip(range(REFERENCE_REFILL), source, strict=False):
            buckets.add(Piece(tokens, 0, 0, 0))
        if buckets.size == before:
            return
