"""Keys and values of earlier tokens, with a position for each row.

L layers, B rows, H query heads, K key/value heads, S capacity in tokens, T new tokens, D head size.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nanochat_core.model.attention import causal_attention, masked_attention
from nanochat_core.specs import ModelSpec


class KVCache:
    """Rows of a batch, each `lengths[b]` tokens long. A forward pass writes; `advance` makes the new tokens count."""

    def __init__(self, spec: ModelSpec, rows: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> None:
        shape = (spec.depth, rows, spec.n_kv_head, capacity, spec.n_embd // spec.n_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self._last = torch.zeros(rows, 1, spec.n_embd, device=device, dtype=dtype)  # the embedding before the next
        self._new: Tensor | None = None  # the embeddings of the tokens that do not count yet
        self.longest = 0

    @property
    def capacity(self) -> int:
        return self.keys.size(3)

    def positions(self, new_tokens: int) -> Tensor:
        """Return the positions (B, T) that the next `new_tokens` tokens of each row will have."""
        return self.lengths[:, None] + torch.arange(new_tokens, device=self.lengths.device)

    def before(self, x: Tensor) -> Tensor:
        """Return for each of the new embeddings x (B, T, C) the one before it in its row; zeros before the first."""
        self._new = x
        return torch.cat([self._last.to(x.dtype), x[:, :-1]], dim=1)

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor, int | None], Tensor]:
        """Return the attention of one layer, to be called with q, k, v and the window."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """Store k and v (B, K, T, D) behind each row and return the attention (B, H, T, D) of q over the row.

        Position i sees those from i − window on, or all before it.
        """
        new_tokens = q.size(2)
        if self.longest == 0:
            self.keys[layer, :, :, :new_tokens] = k
            self.values[layer, :, :, :new_tokens] = v
            return causal_attention(q, k, v, window)
        positions = self.positions(new_tokens)
        rows = torch.arange(q.size(0), device=q.device)[:, None]
        self.keys[layer][rows, :, positions] = k.transpose(1, 2).to(self.keys.dtype)
        self.values[layer][rows, :, positions] = v.transpose(1, 2).to(self.values.dtype)
        end = self.longest + new_tokens
        keys, queries = torch.arange(end, device=q.device), positions[:, None, :, None]
        visible = keys <= queries  # (B, 1, T, S)
        if window is not None:
            visible &= keys >= queries - window
        return masked_attention(q, self.keys[layer, :, :, :end], self.values[layer, :, :, :end], visible)

    def advance(self, new_tokens: Tensor | int) -> None:
        """Make the tokens just written count: the same number for each row, or one number for each (B,)."""
        if self._new is not None:
            last = torch.as_tensor(new_tokens, device=self.lengths.device).expand(len(self.lengths)) - 1
            self._last, self._new = self._new[torch.arange(len(last)), last][:, None], None
        self.lengths = self.lengths + new_tokens
        self.longest = int(self.lengths.max())

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times (n samples of one prompt)."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths, self._last = self.lengths[rows], self._last[rows]
        self.longest = int(self.lengths.max())
