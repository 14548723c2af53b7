"""Batches of conversations for mid-training and SFT, from the parquet files that `tasks_eval` rendered.

`stream`: conversations in a seeded order, joined into one stream that is cut into rows, and begun anew at each epoch.
`padded`: one conversation a row, padded to the longest of the step. Targets that are not learned are IGNORED.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nanochat_core.data.shards import read_columns
from nanochat_core.errors import DataError, SpecError
from nanochat_core.model.loss import IGNORED

Batching = Literal["stream", "padded"]
Rows = list[tuple[np.ndarray, np.ndarray]]  # ids int32 and mask int8 of each conversation


def read_conversations(path: Path, *, mask: Literal["none", "assistant"]) -> Rows:
    """Return ids and mask of each conversation; with mask "none" every token is learned.

    Raises DataError where the file is corrupt or holds no conversations.
    """
    table = read_columns(path, ["ids", "mask"])
    columns = []
    for name, dtype in (("ids", np.int32), ("mask", np.int8)):
        column = table[name].combine_chunks()
        borders = column.offsets.to_numpy()
        columns.append(np.split(column.values.to_numpy().astype(dtype), borders[1:-1]))
    if mask == "none":
        columns[1] = [np.ones_like(row) for row in columns[1]]
    return list(zip(*columns, strict=True))


class ConversationLoader:
    """Steps of `batch_rows` rows over all ranks. The order is a function of seed and epoch; the state is one number."""

    def __init__(
        self,
        rows: Rows,
        *,
        batching: Batching,
        batch_rows: int,
        sequence_len: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        if batch_rows % world_size:
            raise SpecError(f"batch_rows {batch_rows} cannot be shared by {world_size} ranks. Choose a multiple.")
        self._rows, self._batching, self._seed = rows, batching, seed
        self._batch_rows, self._sequence_len = batch_rows, sequence_len
        self._share = slice(rank, None, world_size)
        self._step = 0
        self._stream: tuple[int, np.ndarray, np.ndarray] | None = None
        self.cut_conversations = sum(len(ids) > sequence_len + 1 for ids, _ in rows) if batching == "padded" else 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the conversations (the last, partial batch is left out)."""
        if self._batching == "padded":
            steps = len(self._rows) // self._batch_rows
        else:
            steps = (sum(len(ids) for ids, _ in self._rows) - 1) // (self._batch_rows * self._sequence_len)
        if not steps:
            raise DataError(
                f"{len(self._rows)} conversations do not fill one step of {self._batch_rows} rows. "
                "Give the mixture more rows, or lower batch_rows."
            )
        return steps

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return this rank's rows of the next step: ids and targets, each int64 (rows, T)."""
        epoch, position = divmod(self._step, self.steps_per_epoch)
        self._step += 1
        ids, mask = self._padded(epoch, position) if self._batching == "padded" else self._stream_rows(epoch, position)
        ids, mask = ids[self._share], mask[self._share]
        targets = np.where(mask[:, 1:] == 1, ids[:, 1:], IGNORED)
        return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))

    def _padded(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask (batch_rows, longest) of one step; longer ones are cut to sequence_len + 1."""
        first = position * self._batch_rows
        chosen = [self._rows[index] for index in self._order(epoch)[first : first + self._batch_rows]]
        longest = min(max(len(ids) for ids, _ in chosen), self._sequence_len + 1)
        padded = np.zeros((2, self._batch_rows, longest), dtype=np.int64)
        for row, pair in enumerate(chosen):
            for plane, values in enumerate(pair):
                padded[plane, row, : min(len(values), longest)] = values[:longest]
        return padded[0], padded[1]

    def _stream_rows(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask (batch_rows, T + 1) of one step; a row's last token is the next row's first."""
        if self._stream is None or self._stream[0] != epoch:
            order = self._order(epoch)
            ids, mask = (np.concatenate([self._rows[index][plane] for index in order]) for plane in (0, 1))
            self._stream = (epoch, ids.astype(np.int64), mask)
        length = self._batch_rows * self._sequence_len
        _, ids, mask = self._stream
        cut = slice(position * length, (position + 1) * length + 1)
        window = self._sequence_len + 1
        views = [
            np.lib.stride_tricks.sliding_window_view(plane[cut], window)[:: self._sequence_len] for plane in (ids, mask)
        ]
        return views[0], views[1]

    def state(self) -> dict[str, Tensor]:
        return {"conversations.step": torch.tensor([self._step])}

    def load(self, state: dict[str, Tensor]) -> None:
        self._step = int(state["conversations.step"])
