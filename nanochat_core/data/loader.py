"""Rows of text for pretraining: documents, packed (`packing.py`) lane by lane (`document_order.py`).

Each lane gives the same number of rows to every step. A rank holds the lanes r, r + W, …, so the rows of a step do not
depend on the number of ranks, and a checkpoint written by two ranks continues on one. The state of a lane is which turn
it reads next, and where the documents are that it has read and not yet packed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.packing import (
    BUFFER_DOCUMENTS,
    BestFitPacker,
    Packer,
    PackingCounts,
    Piece,
    StreamPacker,
)
from nanochat_core.data.token_source import TokenSource
from nanochat_core.errors import DataError
from nanochat_core.specs import Packing
from nanochat_core.tokenizer.bpe import Tokenizer

BUFFER_SHARE = 4  # the buffer holds at most a fourth of a lane's documents, so that few epochs mix in it


@dataclass(frozen=True)
class RowShape:
    """What the rows of a step look like. A row has `sequence_len` + 1 tokens: ids, and targets one further on."""

    sequence_len: int
    rows_per_step: int
    packing: Packing
    bos: int
    token_dtype: np.dtype

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, sequence_len: int, rows_per_step: int, packing: Packing) -> "RowShape":
        return cls(sequence_len, rows_per_step, packing, tokenizer.bos, tokenizer.token_dtype)


class TokenLoader:
    """Rows of training tokens. `rows` advances; `state` and `load` are its part of a checkpoint."""

    def __init__(self, order: DocumentOrder, source: TokenSource, own_lanes: Sequence[int], shape: RowShape) -> None:
        self._order, self._source, self._shape = order, source, shape
        self._own = [self._lane(number) for number in own_lanes]

    def _lane(self, number: int) -> "Lane":
        lane = Lane(number, self._source, self._order)
        if self._shape.packing == "stream":
            lane.packer = StreamPacker(self._shape.bos, lane.more)
        else:
            share = self._order.documents // (self._order.lanes * BUFFER_SHARE)
            buffer = max(1, min(BUFFER_DOCUMENTS, share))
            longest = self._shape.sequence_len
            lane.packer = BestFitPacker(self._shape.bos, longest, lane.more, buffer_documents=buffer)
        return lane

    @property
    def epoch(self) -> int:
        """How often the slowest lane of this rank has gone through all documents."""
        return min(lane.next_turn for lane in self._own) // self._order.turns

    @property
    def counts(self) -> PackingCounts:
        """What packing has done so far in this rank's lanes."""
        return PackingCounts.total(lane.packer.counts for lane in self._own)

    def rows(self) -> np.ndarray:
        """Return this rank's rows of the next step, (rows, T + 1) of the tokenizer's dtype."""
        lane_rows = self._shape.rows_per_step // self._order.lanes
        rows = np.empty((len(self._own) * lane_rows, self._shape.sequence_len + 1), self._shape.token_dtype)
        for index, row in enumerate(rows):
            self._own[index // lane_rows].packer.fill(row)
        return rows

    def state(self) -> dict[str, Tensor]:
        """Return this rank's lanes as tensors, by the lane's number; documents as where they are, not as tokens."""
        state = {}
        for lane in self._own:
            places = [(piece.turn, piece.document, piece.start, len(piece.tokens)) for piece in lane.packer.pieces()]
            state[f"lane.{lane.number}.next_turn"] = torch.tensor([lane.next_turn])
            state[f"lane.{lane.number}.pieces"] = torch.tensor(places, dtype=torch.int64).reshape(-1, 4)
            state[f"lane.{lane.number}.counts"] = torch.tensor(lane.packer.counts.numbers)
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from the lanes of a checkpoint, written by any number of ranks."""
        places = {lane.number: state[f"lane.{lane.number}.pieces"].tolist() for lane in self._own}
        for lane in self._own:
            lane.next_turn = int(state[f"lane.{lane.number}.next_turn"])
            lane.packer.counts = PackingCounts(*state[f"lane.{lane.number}.counts"].tolist())
        self._source.start({lane.number: lane.next_turn for lane in self._own})
        documents = self._read_again(places)
        for lane in self._own:
            lane.packer.restore(
                (Piece(documents[lane.number, turn, document], turn, document, start), length)
                for turn, document, start, length in places[lane.number]
            )

    def origins(self) -> dict[str, list[int]]:
        """Make the next step's rows, and return which documents are in this rank's: shard -> numbers in the shard.

        A document counts where any of it left the packer. For errors, not for each step: documents are read again.
        """
        first_turns = {lane.number: lane.next_turn for lane in self._own}
        before = {lane.number: _waiting(lane) for lane in self._own}
        self.rows()
        found: dict[str, set[int]] = {}
        for lane in self._own:
            held = before[lane.number] | self._sizes(lane.number, range(first_turns[lane.number], lane.next_turn))
            after = _waiting(lane)
            for place, tokens in held.items():
                if after[place] < tokens:
                    shard, number = self._order.document(*place, lane.number)
                    found.setdefault(shard, set()).add(number)
        return {shard: sorted(numbers) for shard, numbers in found.items()}

    def _sizes(self, lane: int, turns: range) -> Counter[tuple[int, int]]:
        """Return the tokens of each document, by turn and number, that the lane has in these turns."""
        return Counter(
            {
                (turn, number): len(document)
                for turn in turns
                for number, document in enumerate(self._source.again(turn, [lane])[lane])
            }
        )

    def _read_again(self, places: dict[int, list[list[int]]]) -> dict[tuple[int, int, int], np.ndarray]:
        """Return the documents that were waiting, by lane, turn and number."""
        lanes_of_turn: dict[int, list[int]] = {}
        for lane, pieces in places.items():
            for turn in {piece[0] for piece in pieces}:
                lanes_of_turn.setdefault(turn, []).append(lane)
        wanted = {(lane, turn, document) for lane, pieces in places.items() for turn, document, _, _ in pieces}
        return {
            (lane, turn, document): tokens
            for turn, lanes in sorted(lanes_of_turn.items())
            for lane, documents in self._source.again(turn, lanes).items()
            for document, tokens in enumerate(documents)
            if (lane, turn, document) in wanted
        }

    def close(self) -> None:
        self._source.close()


def _waiting(lane: "Lane") -> Counter[tuple[int, int]]:
    """Return how many tokens of each document, by turn and number, the lane's packer has yet to place."""
    waiting: Counter[tuple[int, int]] = Counter()
    for piece in lane.packer.pieces():
        waiting[piece.turn, piece.document] += len(piece.tokens)
    return waiting


class Lane:
    """One virtual reader: its packer, and the turn that it reads next."""

    packer: Packer

    def __init__(self, number: int, source: TokenSource, order: DocumentOrder) -> None:
        self.number = number
        self.next_turn = 0
        self._source, self._order = source, order

    def more(self) -> list[Piece]:
        """Return the documents of the next turn in which the lane has any; raises DataError where all are empty."""
        for _ in range(self._order.turns + 1):
            turn, self.next_turn = self.next_turn, self.next_turn + 1
            documents = self._source.documents(turn, self.number)
            if any(len(document) for document in documents):
                return [Piece(document, turn, index, 0) for index, document in enumerate(documents)]
        raise DataError(
            f"All documents of lane {self.number} of {self._order.lanes} are empty: look at the training text with "
            "`nanochat data stats`, or lower total_batch_tokens."
        )
