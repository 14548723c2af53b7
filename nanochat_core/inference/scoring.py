"""Log-probabilities of given tokens, for many requests at once: what requests have in common is computed once.

Requests that begin alike are one row of a batch (`token_tree.py`). What all requests of a call begin with, such as
fixed few-shot examples, is computed before that, and its keys are kept. Rows of like length share a batch; the last
layer and the head compute the states that are asked for only. No other keys live longer than a layer, so all layers
write them into the same memory.

N new tokens, C width, K key/value heads, S places of a row, D head size, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nanochat_core.inference.forward import Batch, Ending, Segment, capped, forward
from nanochat_core.inference.kv_memory import KVMemory, KVShape
from nanochat_core.inference.prefixes import common_prefix
from nanochat_core.inference.token_tree import TokenTree, ToScore, token_trees
from nanochat_core.inference.weights import InferenceWeights

CPU_BATCH_TOKENS = 1024  # more are no faster there
WORTH_KEEPING = 32  # tokens that all requests of a call begin with,
MANY = 8  # where they are more than so many: fewer are one row
HEAD_ROWS = 256  # states whose logits are computed at once

Kept = list[tuple[Tensor, Tensor]]  # of each layer, the keys and values (K, P, D) of the first P tokens


@dataclass(frozen=True)
class Scorer:
    """A model's weights; `turns` (positions, D/2) are the rotations, `kv` the heads, their size and the windows."""

    weights: InferenceWeights
    turns: Tensor
    kv: KVShape
    groups_of_heads: int
    batch_tokens: int

    @torch.inference_mode()
    def scores(self, requests: Sequence[tuple[Sequence[int], int]]) -> Iterator[tuple[int, Tensor, bool]]:
        """Yield (index, log-probabilities of ids[start:] in float32, whether each was the likeliest) in any order."""
        rows = [ToScore(index, np.array(ids), start) for index, (ids, start) in enumerate(requests)]
        for batch, states in self._states(rows):
            owners = [request for tree in batch for request in tree.requests]
            places, ids = state_places(batch), np.concatenate([request.ids[request.start :] for request in owners])
            logprobs, is_best = self._score(states, places, ids)
            ends = np.cumsum([len(request.ids) - request.start for request in owners])[:-1].tolist()
            parts = zip(owners, np.split(logprobs, ends), np.split(is_best, ends), strict=True)
            yield from ((request.index, torch.from_numpy(own), bool(best.all())) for request, own, best in parts)

    @torch.inference_mode()
    def next_logits(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, logits (V,) in float32 of what follows the prompt) in any order."""
        rows = [ToScore(index, np.array(ids), len(ids)) for index, ids in enumerate(prompts)]
        for batch, states in self._states(rows):
            owners = [request for tree in batch for request in tree.requests]
            for request, place in zip(owners, state_places(batch).tolist(), strict=True):
                yield request.index, self._logits(states[place : place + 1])[0]

    def _logits(self, states: Tensor) -> Tensor:
        return capped(self.weights.head(states).float())

    def _score(self, states: Tensor, places: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probability (M,) of each id after the state at its place, and whether it is the likeliest."""
        logprobs, is_best = np.empty(len(ids), np.float32), np.empty(len(ids), bool)
        order = np.argsort(places, kind="stable")
        borders = np.searchsorted(places[order], range(0, len(states) + HEAD_ROWS, HEAD_ROWS))
        for piece, first in enumerate(range(0, len(states), HEAD_ROWS)):
            own = order[borders[piece] : borders[piece + 1]]
            raw = self.weights.head(states[first : first + HEAD_ROWS]).float()
            rows = torch.from_numpy(places[own] - first).to(raw.device)
            targets = torch.from_numpy(ids[own]).to(raw.device)
            best = raw.numpy().argmax(axis=1) if raw.device.type == "cpu" else raw.argmax(dim=1).cpu().numpy()
            logits = capped(raw)
            of_target = logits[rows, targets]
            total = logits.exp_().sum(dim=1).log_()  # capped at 15: exp needs no maximum taken away first
            logprobs[own] = (of_target - total[rows]).cpu().numpy()
            is_best[own] = best[places[own] - first] == ids[own]
        return logprobs, is_best

    def _states(self, requests: Sequence[ToScore]) -> Iterator[tuple[list[TokenTree], Tensor]]:
        """Yield batches of rows with the states (W, C) that they ask for, row by row."""
        if not requests:
            return
        count = self._kept_tokens(requests)
        kept = self._keep(requests[0].ids[:count]) if count else []
        width = self.kv.heads * self.groups_of_heads * self.kv.head_size
        batches = list(filled(token_trees(requests, count, width), self.batch_tokens))
        size = max(len(batch) * max(tree.end for tree in batch) for batch in batches)
        shape = (2, size * self.kv.heads * self.kv.head_size)
        buffers = torch.empty(shape, dtype=self.weights.dtype, device=self.weights.device)
        for batch in batches:
            memory = LayerMemory(self.kv, batch, buffers, kept)
            yield batch, forward(self.weights, memory, self._batch(batch, memory))

    def _kept_tokens(self, requests: Sequence[ToScore]) -> int:
        """Return how many first ids all requests have in common, as far as it is worth keeping their keys."""
        first, last = min(requests, key=ToScore.order), max(requests, key=ToScore.order)
        count = min(common_prefix(first.ids, last.ids), min(request.start for request in requests) - 1)
        return count if count >= WORTH_KEEPING and len(requests) > MANY else 0

    def _keep(self, ids: np.ndarray) -> Kept:
        """Return the keys and values of ids that every row begins with."""
        tree = TokenTree([ToScore(0, ids, len(ids))], 0)
        memory = KVMemory(replace(self.kv, capacity=len(ids)), 1, self.device)
        batch = self._batch([tree], memory)
        batch.ending = Ending(torch.zeros(0, dtype=torch.int64, device=self.device), [])
        forward(self.weights, memory, batch)
        return [(keys[0], values[0]) for keys, values in zip(memory.keys, memory.values, strict=True)]

    @property
    def device(self) -> torch.device:
        return self.weights.device

    def _batch(self, trees: Sequence[TokenTree], memory: "LayerMemory | KVMemory") -> Batch:
        offsets = np.cumsum([0, *map(len, trees)])
        slots = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
        places = np.concatenate([np.arange(tree.kept, tree.end) for tree in trees])
        runs = [
            (offset + place, before)
            for tree, offset in zip(trees, offsets[:-1], strict=True)
            for place, before in tree.runs()
        ]
        befores = np.array([before for _, before in runs])
        return Batch(
            ids=self._tensor(np.concatenate([tree.ids for tree in trees])),
            places=memory.places(self._tensor(slots), self._tensor(places)),
            turns=self.turns[self._tensor(np.concatenate([tree.positions for tree in trees]))][:, None],
            segments=list(self._segments(trees, offsets)),
            first=self._tensor(np.array([place for place, _ in runs])),
            before=self._tensor(np.maximum(befores, 0)),
            known=self._tensor((befores >= 0)[:, None]).to(self.weights.dtype),
            ending=self._ending(trees, offsets),
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _segments(self, trees: Sequence[TokenTree], offsets: np.ndarray) -> Iterator[Segment]:
        """Yield, for each row, the attention of its first request, and of all that the others add."""
        for slot, tree in enumerate(trees):
            first = tree.first_length
            yield self._segment(slot, tree, np.arange(first), offsets[slot], tree.kept + first)
            if first < len(tree):
                yield self._segment(slot, tree, np.arange(first, len(tree)), offsets[slot] + first, tree.end)

    def _ending(self, trees: Sequence[TokenTree], offsets: np.ndarray) -> Ending:
        segments, wanted, place = [], [], 0
        for slot, tree in enumerate(trees):
            own = tree.wanted
            segments.append(self._segment(slot, tree, own, place, tree.end))
            wanted.append(own + offsets[slot])
            place += len(own)
        return Ending(self._tensor(np.concatenate(wanted)), segments)

    def _segment(self, slot: int, tree: TokenTree, queries: np.ndarray, offset: int, end: int) -> Segment:
        """Return the attention of some new tokens of a row, which come at `offset`, to its places before `end`."""
        rows = slice(int(offset), int(offset) + len(queries))
        segment = Segment(rows, slice(slot, slot + 1), is_causal=True)
        is_plain = tree.kept == 0 and len(queries) == end
        for window in set(self.kv.windows):
            mask = None
            if not is_plain or self.groups_of_heads > 1 or (window is not None and window < end):
                hidden = ~self._tensor(tree.visible(queries, window)[:, :end])
                mask = torch.zeros(hidden.shape, dtype=self.weights.dtype, device=self.device)
                mask = mask.masked_fill_(hidden, float("-inf")).repeat(self.groups_of_heads, 1)[None, None]
            segment.masks[window] = (0, end, mask)
        return segment


def filled(trees: Iterable[TokenTree], tokens: int) -> Iterator[list[TokenTree]]:
    """Yield the rows in batches of at most so many tokens; a longer row is a batch of its own."""
    batch: list[TokenTree] = []
    for tree in trees:
        if batch and sum(map(len, batch)) + len(tree) > tokens:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def state_places(batch: Sequence[TokenTree]) -> np.ndarray:
    """Return, for each state that a request asks for, where it is among the states of the batch."""
    places, first = [], 0
    for tree in batch:
        places += [first + np.searchsorted(tree.wanted, wanted) for wanted in tree.wanted_by_request]
        first += len(tree.wanted)
    return np.concatenate(places)


class LayerMemory:
    """Keys and values of the rows of a batch (rows, K, S, D) in one layer; the next one writes over them."""

    def __init__(self, kv: KVShape, trees: Sequence[TokenTree], buffers: Tensor, kept: Kept) -> None:
        self.shape = replace(kv, capacity=max(tree.end for tree in trees))
        sizes = (len(trees), kv.heads, self.shape.capacity, kv.head_size)
        keys, values = (buffer[: int(np.prod(sizes))].view(sizes) for buffer in buffers)
        self._kept, self._heads = kept, torch.arange(kv.heads, device=keys.device) * self.shape.capacity
        self.keys, self.values = [keys] * len(kv.windows), [values] * len(kv.windows)

    def places(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return where the tokens at `positions` (N,) of the rows `slots` (N,) go, for each head: (N·K,)."""
        rows = slots * (self.shape.heads * self.shape.capacity) + positions
        return (rows[:, None] + self._heads).view(-1)

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values (N, K, D) of new tokens, and before them what was kept."""
        for number, (memory, new) in enumerate(((self.keys[layer], keys), (self.values[layer], values))):
            if self._kept:
                kept = self._kept[layer][number]
                memory[:, :, : kept.size(1)] = kept
            memory.view(-1, self.shape.head_size).index_copy_(0, places, new.reshape(-1, self.shape.head_size))
