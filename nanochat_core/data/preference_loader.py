"""Pairs of answers for each step of DPO and of a reward model, from the files of the preferences stage.

Each epoch goes over all pairs in an order of its own, in as few steps as hold them, all equally full. A pair is two
rows: its prompt with the chosen answer, and with the rejected one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanochat_core.data.conversation_plans import even_steps
from nanochat_core.data.conversations import Conversations, conversations_in
from nanochat_core.data.own.preference_files import SIDES
from nanochat_core.data.shards import read_columns
from nanochat_core.distributed import World
from nanochat_core.errors import DataError
from nanochat_core.model.loss import IGNORED


@dataclass(frozen=True)
class PairBatch:
    """Some pairs as rows: the chosen answers first, then the rejected ones in the same order.

    `numbers` (n,) are the pairs' places in their file; `idx` and `targets` are int64 (2n, T), filled up with zeros and
    IGNORED. Targets are the answer's own tokens; `last` (2n,) is where a row's last token is.
    """

    numbers: Tensor
    idx: Tensor
    targets: Tensor
    last: Tensor

    @property
    def tokens(self) -> int:
        """How many tokens there are, without what rows are filled up with."""
        return int((self.last + 1).sum())

    def to(self, device: torch.device) -> "PairBatch":
        return PairBatch(*(tensor.to(device) for tensor in (self.numbers, self.idx, self.targets, self.last)))


class PreferencePairs:
    """The pairs of a file, of which those with an answer that does not fit `sequence_len` tokens are left out."""

    def __init__(self, path: Path, *, sequence_len: int) -> None:
        """Raises DataError where the file is corrupt, or no pair fits."""
        table = read_columns(path, [f"{side}_{kind}" for side in SIDES for kind in ("ids", "mask")])
        self._sides = [conversations_in(table, (f"{side}_ids", f"{side}_mask"), path) for side in SIDES]
        self.lengths = np.maximum(*(side.lengths for side in self._sides))
        self.fitting = np.flatnonzero(self.lengths <= sequence_len)
        self.left_out = table.num_rows - len(self.fitting)
        if not len(self.fitting):
            raise DataError(
                f"{path}: none of its {table.num_rows:,} pairs fits rows of {sequence_len} tokens, the shortest has "
                f"{self.lengths.min():,}. Shorten them, or raise sequence_len."
            )

    def __len__(self) -> int:
        """How many pairs the file has, with those that do not fit."""
        return len(self.lengths)

    def batch(self, numbers: np.ndarray) -> PairBatch:
        """Return these pairs, filled up to the longest of them."""
        width = int(self.lengths[numbers].max())
        ids, mask = np.zeros((2, 2 * len(numbers), width), dtype=np.int64)
        last = np.empty(2 * len(numbers), dtype=np.int64)
        rows = [(side, int(number)) for side in self._sides for number in numbers]
        for row, (side, number) in enumerate(rows):
            last[row] = _fill(ids[row], mask[row], side, number) - 1
        targets = np.where(mask[:, 1:] == 1, ids[:, 1:], IGNORED)
        targets = np.concatenate([targets, np.full((len(rows), 1), IGNORED)], axis=1)  # nothing follows the last token
        return PairBatch(*map(torch.from_numpy, (np.array(numbers), ids, targets, last)))

    def batches(self, numbers: np.ndarray, pairs: int) -> list[np.ndarray]:
        """Return the numbers in pieces of so many pairs, those of like length side by side."""
        by_length = numbers[np.argsort(self.lengths[numbers], kind="stable")]
        return [by_length[first : first + pairs] for first in range(0, len(by_length), pairs)]


def _fill(ids: np.ndarray, mask: np.ndarray, side: Conversations, number: int) -> int:
    """Write one answer behind its prompt into a row of ids and of mask; return its length."""
    place = side.place(number)
    length = place.stop - place.start
    ids[:length], mask[:length] = side.ids[place], side.mask[place]
    return length


class PairLoader:
    """Which pairs each step has, over all ranks: a function of seed and epoch. The state is one number."""

    def __init__(self, pairs: PreferencePairs, *, batch_pairs: int, seed: int, world: World) -> None:
        self.pairs = pairs
        self._starts = even_steps(len(pairs.fitting), batch_pairs)
        self._seed, self._share = seed, slice(world.rank, None, world.size)
        self._step = 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self._starts) - 1

    def next_pairs(self) -> tuple[np.ndarray, int]:
        """Return this rank's pairs of the next step (there may be none), and how many all ranks have."""
        numbers = self._numbers(self._step)
        self._step += 1
        return numbers[self._share], len(numbers)

    def _numbers(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(self.pairs.fitting)
        return order[self._starts[position] : self._starts[position + 1]]

    def batch(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("pairs are learned by steps of their own (training/pair_steps.py)")

    def origins(self) -> dict[str, list[int]]:
        """Return which pairs this rank had in the step before: their places in the file."""
        return {"pairs": sorted(self._numbers(self._step - 1)[self._share].tolist())}

    def state(self) -> dict[str, Tensor]:
        return {"pairs.step": torch.tensor([self._step])}

    def load(self, state: dict[str, Tensor]) -> None:
        self._step = int(state["pairs.step"])
