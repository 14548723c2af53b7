"""Batches of text for pretraining: documents, each with BOS in front, in one stream; every T tokens make a row.

Documents are dealt to a fixed number of virtual lanes (document i to lane i mod L), and each lane gives the same rows
of every step. A rank holds the lanes r, r + W, …, so the batches of a step do not depend on the number of ranks, and a
checkpoint written by two ranks continues on one. The state of a lane is where it reads next and the tokens it has left.
"""

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanochat_core.data.shards import read_row_group, row_groups
from nanochat_core.errors import DataError, SpecError
from nanochat_core.tokenizer.bpe import Tokenizer

MAX_LANES = 64
CACHED_ROW_GROUPS = 4


class DocumentReader:
    """Row groups of the shards, the newest few kept decoded, because the lanes walk through them side by side."""

    def __init__(self, paths: list[Path]) -> None:
        self.groups = row_groups(paths)
        self.first_document = np.cumsum([0] + [rows for _, _, rows in self.groups])
        self._cache: OrderedDict[int, list[str]] = OrderedDict()

    def lane_documents(self, group: int, lane: int, lanes: int) -> list[str]:
        """Return the documents of row group `group` that belong to `lane` of `lanes`."""
        if group not in self._cache:
            path, index, _ = self.groups[group]
            self._cache[group] = read_row_group(path, index)
            if len(self._cache) > CACHED_ROW_GROUPS:
                self._cache.popitem(last=False)
        offset = (lane - int(self.first_document[group])) % lanes
        return self._cache[group][offset::lanes]


class Lane:
    """One virtual reader: the next row group (over all epochs), and tokens read but not yet given out."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.next_group = 0
        self.tokens = np.empty(0, dtype=np.int32)


class TokenLoader:
    """Rows of training tokens. `batch` advances; `state` and `load` are its part of a checkpoint."""

    def __init__(
        self,
        paths: list[Path],
        tokenizer: Tokenizer,
        *,
        sequence_len: int,
        rows_per_step: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.lanes = math.gcd(rows_per_step, MAX_LANES)
        if self.lanes % world_size:
            raise SpecError(
                f"{rows_per_step} rows a step go to {self.lanes} lanes, which {world_size} ranks cannot share evenly. "
                "Choose a number of ranks that divides it, or a total_batch_tokens with more rows."
            )
        self._reader = DocumentReader(paths)
        self._tokenizer = tokenizer
        self._sequence_len = sequence_len
        self._lane_rows = rows_per_step // self.lanes
        self._own = [Lane(number) for number in range(rank, self.lanes, world_size)]

    @property
    def epoch(self) -> int:
        """How often the slowest lane of this rank has gone through all documents."""
        return min(lane.next_group for lane in self._own) // len(self._reader.groups)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return this rank's rows of the next step: ids and targets, each int64 (rows, T)."""
        length = self._lane_rows * self._sequence_len
        flat = np.stack([self._take(lane, length) for lane in self._own])  # (own lanes, length + 1)
        rows = torch.from_numpy(flat.astype(np.int64))
        shape = (-1, self._sequence_len)
        return rows[:, :-1].reshape(shape), rows[:, 1:].reshape(shape)

    def _take(self, lane: Lane, length: int) -> np.ndarray:
        """Return the lane's next `length` + 1 tokens and advance it by `length`."""
        pieces, available = [lane.tokens], len(lane.tokens)
        empty_groups = 0
        while available <= length:
            documents = self._reader.lane_documents(lane.next_group % len(self._reader.groups), lane.number, self.lanes)
            lane.next_group += 1
            empty_groups = 0 if documents else empty_groups + 1
            if empty_groups > len(self._reader.groups):
                raise DataError(
                    f"The training shards hold fewer than {self.lanes} documents, one for each lane of a step. "
                    "Add text, or lower total_batch_tokens."
                )
            pieces.append(joined_tokens(self._tokenizer, documents))
            available += len(pieces[-1])
        tokens = np.concatenate(pieces)
        lane.tokens = tokens[length:]
        return tokens[: length + 1]

    def state(self) -> dict[str, Tensor]:
        """Return this rank's lanes as tensors, by the lane's number."""
        state = {}
        for lane in self._own:
            state[f"lane.{lane.number}.next_group"] = torch.tensor([lane.next_group])
            state[f"lane.{lane.number}.tokens"] = torch.from_numpy(lane.tokens.copy())
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from the lanes of a checkpoint, written by any number of ranks."""
        for lane in self._own:
            lane.next_group = int(state[f"lane.{lane.number}.next_group"])
            lane.tokens = state[f"lane.{lane.number}.tokens"].numpy()


def joined_tokens(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """Return the documents' tokens, each document with BOS in front, int32."""
    encoded = tokenizer.encode_batch(documents)
    flat = [token for ids in encoded for token in (tokenizer.bos, *ids)]
    return np.asarray(flat, dtype=np.int32)


def stream_rows(paths: list[Path], tokenizer: Tokenizer, *, sequence_len: int, max_tokens: int) -> Tensor:
    """Return the first tokens of the shards as rows (n, T + 1), int64; a row's last token is the next row's first.

    n is as many rows as `max_tokens` and the text allow. Raises DataError where the text does not fill one row.
    """
    pieces, available = [], 0
    for path, group, _ in row_groups(paths):
        if available > max_tokens:
            break
        pieces.append(joined_tokens(tokenizer, read_row_group(path, group)))
        available += len(pieces[-1])
    tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    rows = min(len(tokens) - 1, max_tokens) // sequence_len
    if rows < 1:
        raise DataError(
            f"{len(tokens)} tokens of text do not fill one row of {sequence_len}. Add text, or lower sequence_len."
        )
    windows = np.lib.stride_tricks.sliding_window_view(tokens[: rows * sequence_len + 1], sequence_len + 1)[
        ::sequence_len
    ]
    return torch.from_numpy(windows.astype(np.int64))
