"""Batches of conversations for mid-training and SFT, from the parquet files that `tasks_eval` rendered.

`stream`: conversations in a seeded order (of a file that is a sequence: as they stand), joined into one stream that is
cut into rows, and begun anew at each epoch.
`padded`, `packed`, `bucketed`: whole conversations in rows of their own, or several to a row (`conversation_plans.py`).
One that is longer than a row is cut after its last answer that ends within it; where not even the first does, and in a
plain document, which has no messages, at the end of the row.
Targets that are not learned are IGNORED.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from nanochat_core.chat_format import IN_SEQUENCE, ORDER_KEY
from nanochat_core.data.conversation_plans import PLANNERS, BatchShape, EpochPlan
from nanochat_core.data.shards import read_columns
from nanochat_core.errors import DataError, SpecError
from nanochat_core.model.loss import IGNORED

Batching = Literal["stream", "padded", "packed", "bucketed"]


@dataclass(frozen=True)
class Conversations:
    """Conversations end to end: number i is ids[starts[i] : starts[i + 1]] (int32), the mask (int8) alike.

    `in_order`: they are learned as they stand, in each epoch anew, not shuffled. `answer_end`: the id that ends an
    answer, after which a conversation may be cut; None: it may be cut anywhere.
    """

    ids: np.ndarray
    mask: np.ndarray
    starts: np.ndarray
    in_order: bool = False
    answer_end: int | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def place(self, index: int, *, longest: int | None = None) -> slice:
        """Return where conversation `index` is, or the first `longest` tokens of it."""
        first, end = int(self.starts[index]), int(self.starts[index + 1])
        return slice(first, end if longest is None else min(end, first + longest))

    def fitted(self, longest: int) -> np.ndarray:
        """Return each conversation's length (n,) in a row of `longest` tokens: cut after an answer, where one ends."""
        lengths = np.minimum(self.lengths, longest)
        if self.answer_end is None:
            return lengths
        for index in np.flatnonzero(self.lengths > longest):
            ends = np.flatnonzero(self.ids[self.place(index, longest=longest)] == self.answer_end)
            if len(ends):
                lengths[index] = ends[-1] + 1
        return lengths

    def teaches(self, lengths: np.ndarray) -> np.ndarray:
        """Return whether something is learned of each conversation (n,) that is cut to its length in `lengths` (n,)."""
        found = (np.maximum.reduceat(self.mask, self.starts[:-1]) == 1) & (lengths > 1)
        for index in np.flatnonzero(lengths < self.lengths):
            found[index] = self.mask[self.place(index, longest=lengths[index])][1:].any()
        return found


def read_conversations(
    path: Path, *, mask: Literal["none", "assistant"], answer_end: int | None = None
) -> Conversations:
    """Return the conversations of a file; with mask "none" every token is learned.

    Raises DataError where the file is corrupt or holds no conversations.
    """
    table = read_columns(path, ["ids", "mask"])
    found = conversations_in(table, ("ids", "mask"), path)
    in_order = (table.schema.metadata or {}).get(ORDER_KEY) == IN_SEQUENCE
    learned = np.ones_like(found.mask) if mask == "none" else found.mask
    return Conversations(found.ids, learned, found.starts, in_order, answer_end)


def conversations_in(table: pa.Table, columns: tuple[str, str], path: Path) -> Conversations:
    """Return the conversations whose ids and masks are these columns of a table, which was read from `path`.

    Raises DataError where a conversation has no tokens or no mask.
    """
    planes, borders = [], []
    for name, dtype in zip(columns, (np.int32, np.int8), strict=True):
        column = table[name].combine_chunks()
        starts = column.offsets.to_numpy().astype(np.int64)
        planes.append(column.values.to_numpy()[starts[0] : starts[-1]].astype(dtype))
        borders.append(starts - starts[0])
    if (np.diff(borders[0]) == 0).any() or not np.array_equal(*borders):
        raise DataError(f"{path} has conversations without tokens, or without a mask: build the conversations again.")
    return Conversations(planes[0], planes[1], borders[0])


class _AsTheyStand:
    """In place of a random generator, where conversations are not shuffled."""

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)


class ConversationLoader:
    """Steps of rows over all ranks. The order is a function of seed and epoch; the state is one number."""

    def __init__(
        self,
        conversations: Conversations,
        *,
        batching: Batching,
        batch_rows: int,
        sequence_len: int,
        seed: int,
        rank: int,
        world_size: int,
        batch_tokens: int | None = None,
    ) -> None:
        if batch_rows % world_size:
            raise SpecError(f"batch_rows {batch_rows} cannot be shared by {world_size} ranks. Choose a multiple.")
        if conversations.in_order and batching in ("packed", "bucketed"):
            raise SpecError(
                f"The conversations are a sequence, and batching {batching!r} puts them side by side by their length. "
                "Use 'stream' or 'padded', or the order 'mixed'."
            )
        whole, is_stream = conversations.lengths, batching == "stream"
        self._conversations, self._lengths = (
            conversations,
            whole if is_stream else conversations.fitted(sequence_len + 1),
        )
        self._batching, self._seed, self._share = batching, seed, slice(rank, None, world_size)
        self._shape = BatchShape(batch_rows, sequence_len + 1, batch_tokens or batch_rows * sequence_len)
        self._step = 0
        self._stream: tuple[int, np.ndarray, np.ndarray] | None = None
        self._plan: tuple[int, EpochPlan] | None = None
        self._cut = np.flatnonzero(self._lengths < whole)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the conversations (of streamed and padded ones, whole steps only)."""
        if self._batching == "stream":
            steps = (len(self._conversations.ids) - 1) // (self._shape.batch_rows * (self._shape.row_tokens - 1))
        else:
            steps = (self._plan[1] if self._plan else self._planned(0)).steps  # as many in each epoch
        if not steps:
            rows = f"{self._shape.batch_rows} rows"
            rows += f" of {self._shape.row_tokens - 1} tokens" if self._batching == "stream" else ""
            raise DataError(
                f"{len(self._conversations)} conversations do not fill one step of {rows}. "
                "Give the mixture more rows (of what is held out: more validation_rows), or lower batch_rows."
            )
        return steps

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return this rank's rows of the next step: ids and targets, each int64 (rows, T).

        Where a step has fewer rows than there are ranks, some ranks get none of it.
        """
        epoch, position = divmod(self._step, self.steps_per_epoch)
        self._step += 1
        make = self._stream_rows if self._batching == "stream" else self._planned_rows
        ids, mask = make(epoch, position)
        targets = np.where(mask[:, 1:] == 1, ids[:, 1:], IGNORED)
        return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets)

    def origins(self) -> dict[str, list[int]]:
        """Return which conversations are in this rank's rows of the batch last given: their numbers in the file."""
        epoch, position = divmod(self._step - 1, self.steps_per_epoch)
        if self._batching == "stream":
            return {"conversations": self._streamed(epoch, position)}
        members = np.concatenate(self._planned(epoch).rows(position)[self._share] or [np.empty(0, np.int64)])
        return {"conversations": sorted(members.tolist())}

    def _streamed(self, epoch: int, position: int) -> list[int]:
        """Return the conversations in this rank's rows of a step of the stream."""
        order = self._random(epoch).permutation(len(self._lengths))
        ends = np.cumsum(self._lengths[order])
        row = self._shape.row_tokens - 1
        numbers = range(*self._share.indices(self._shape.batch_rows))
        firsts = [(position * self._shape.batch_rows + number) * row for number in numbers]
        cuts = [np.searchsorted(ends, (first, first + row), side="right") for first in firsts]
        return sorted({int(index) for first, last in cuts for index in order[first : last + 1]})

    def cuts(self) -> dict[str, int]:
        """Return how many conversations are cut, how many of them inside a message, and how many teach nothing."""
        last = self._conversations.ids[self._conversations.starts[self._cut] + self._lengths[self._cut] - 1]
        return {
            "cut_conversations": len(self._cut),
            "cut_messages": int((last != self._conversations.answer_end).sum()),
            "unlearned_conversations": int((~self._conversations.teaches(self._lengths)).sum()),
        }

    def padding(self) -> dict[str, float]:
        """Return how many rows an epoch has, over all ranks, and which share of their tokens is padding."""
        if self._batching == "stream":
            return {"rows": self.steps_per_epoch * self._shape.batch_rows, "padding_share": 0.0}
        plan = self._planned(0)
        tokens = self._lengths[plan.members]
        if self._batching == "packed":
            size = (len(plan.row_starts) - 1) * self._shape.row_tokens
        else:  # a member is a row
            size = int((np.maximum.reduceat(tokens, plan.step_starts[:-1]) * np.diff(plan.step_starts)).sum())
        return {"rows": len(plan.row_starts) - 1, "padding_share": round(1 - int(tokens.sum()) / size, 6)}

    def _random(self, epoch: int) -> np.random.Generator | _AsTheyStand:
        return _AsTheyStand() if self._conversations.in_order else np.random.default_rng([self._seed, epoch])

    def _planned(self, epoch: int) -> EpochPlan:
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, PLANNERS[self._batching](self._lengths, self._shape, self._random(epoch)))
        return self._plan[1]

    def _width(self, rows: list[np.ndarray]) -> int:
        """Return how long the rows of a step are: packed ones all alike, others as the longest of them."""
        if self._batching == "packed":
            return self._shape.row_tokens
        return max(2, int(self._lengths[np.concatenate(rows)].max()))  # a token and its target

    def _planned_rows(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask (rows, width) of this rank's share of a step; too long conversations are cut.

        A conversation's first token is never learned: what stands before it is another conversation, or nothing.
        """
        rows = self._planned(epoch).rows(position)
        own = rows[self._share]
        ids, mask = np.zeros((2, len(own), self._width(rows)), dtype=np.int64)
        for row, members in enumerate(own):
            end = 0
            for index in members:
                place = self._conversations.place(index, longest=self._lengths[index])
                first, end = end, end + place.stop - place.start
                ids[row, first:end] = self._conversations.ids[place]
                mask[row, first + 1 : end] = self._conversations.mask[place][1:]
        return ids, mask

    def _stream_rows(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask (rows, T + 1) of this rank's share of a step; a row's last token begins the next row."""
        if self._stream is None or self._stream[0] != epoch:
            places = [self._conversations.place(index) for index in self._random(epoch).permutation(len(self._lengths))]
            ids, mask = self._conversations.ids, self._conversations.mask
            joined = (np.concatenate([plane[place] for place in places]) for plane in (ids.astype(np.int64), mask))
            self._stream = (epoch, *joined)
        window = self._shape.row_tokens
        length = self._shape.batch_rows * (window - 1)
        cut = slice(position * length, (position + 1) * length + 1)
        ids, mask = (
            np.lib.stride_tricks.sliding_window_view(plane[cut], window)[:: window - 1] for plane in self._stream[1:]
        )
        return ids[self._share], mask[self._share]

    def state(self) -> dict[str, Tensor]:
        return {"conversations.step": torch.tensor([self._step])}

    def load(self, state: dict[str, Tensor]) -> None:
        self._step = int(state["conversations.step"])
