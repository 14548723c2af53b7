"""Batches of pairs for tests, from answers written by hand."""

from collections.abc import Sequence

import torch

from nanochat_core.data.preference_loader import PairBatch
from nanochat_core.model.loss import IGNORED


def pair_batch(pairs: Sequence[tuple[list[int], list[int], list[int]]]) -> PairBatch:
    """Return the batch of pairs (prompt, chosen, rejected), numbered from 0."""
    rows = [(prompt, pair[side]) for side in (0, 1) for prompt, *pair in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    idx = torch.zeros(len(rows), width, dtype=torch.int64)
    targets = torch.full_like(idx, IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        idx[row, :end] = torch.tensor([*prompt, *answer])
        targets[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
    last = torch.tensor([len(prompt) + len(answer) - 1 for prompt, answer in rows])
    return PairBatch(torch.arange(len(pairs)), idx, targets, last)
