"""Baseline: best-fit packing by scanning a list of documents, as a plain Python loader does it. Frozen.

The rule is the reference's: a buffer of at least 1,000 documents, refilled by 128; before each pick the whole buffer is
scanned for the longest document that fits; where none does, the shortest is cut and its rest thrown away.

`ListPacker` is what one writes first: documents as the lists of ids that tiktoken returns. `ArrayPacker` is its tuned
sister: arrays, and their lengths in a list of their own, so that a scan reads integers only.
"""

from collections.abc import Iterator

import numpy as np

BUFFER, REFILL = 1000, 128


class ListPacker:
    """Rows of `row_tokens` from an iterator of documents (ids without BOS)."""

    def __init__(self, documents: Iterator[list[int]], bos: int, row_tokens: int) -> None:
        self._documents, self._bos, self._row_tokens = documents, bos, row_tokens
        self._buffer: list[list[int]] = []

    def row(self) -> list[int]:
        row: list[int] = []
        while len(row) < self._row_tokens:
            while len(self._buffer) < BUFFER:
                self._buffer.extend([self._bos, *next(self._documents)] for _ in range(REFILL))
            space = self._row_tokens - len(row)
            best, best_length = -1, 0
            for index, document in enumerate(self._buffer):
                length = len(document)
                if best_length < length <= space:
                    best, best_length = index, length
            if best >= 0:
                row.extend(self._buffer.pop(best))
            else:
                shortest = min(range(len(self._buffer)), key=lambda index: len(self._buffer[index]))
                row.extend(self._buffer.pop(shortest)[:space])
        return row


class ArrayPacker:
    """The same rows. `read`, `placed` and `waiting` count the documents' tokens."""

    def __init__(self, documents: Iterator[np.ndarray], bos: int, row_tokens: int) -> None:
        self._documents, self._bos, self._row_tokens = documents, bos, row_tokens
        self._buffer: list[np.ndarray] = []
        self._lengths: list[int] = []
        self.read = self.placed = 0

    def row(self) -> np.ndarray:
        row = np.empty(self._row_tokens, np.int64)
        used = 0
        while used < self._row_tokens:
            while len(self._buffer) < BUFFER:
                self._refill()
            space = self._row_tokens - used
            best, best_length = -1, 0
            for index, length in enumerate(self._lengths):
                if best_length < length <= space:
                    best, best_length = index, length
            if best < 0:
                best = self._lengths.index(min(self._lengths))
            document = self._buffer.pop(best)
            size = min(self._lengths.pop(best), space)
            row[used] = self._bos
            row[used + 1 : used + size] = document[: size - 1]
            used += size
            self.placed += size - 1
        return row

    def _refill(self) -> None:
        for _ in range(REFILL):
            document = next(self._documents)
            self._buffer.append(document)
            self._lengths.append(len(document) + 1)
            self.read += len(document)

    @property
    def waiting(self) -> int:
        return sum(self._lengths) - len(self._lengths)
