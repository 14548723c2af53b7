"""The next token from logits. Randomness is the caller's uniform numbers, so that equal seeds give equal text whatever
else is in the batch."""

import numpy as np
import torch
from torch import Tensor


def uniform_numbers(seed: int, sample: int, count: int) -> np.ndarray:
    """Return the `count` numbers in [0, 1) that belong to one sample of one request."""
    return np.random.default_rng([seed & 0xFFFF_FFFF_FFFF_FFFF, sample]).random(count)


def sample(logits: Tensor, uniform: Tensor, temperature: Tensor, top_k: int | None) -> Tensor:
    """Return one token id for each row (B,), int64.

    logits (B, V) float32; uniform (B,) in [0, 1); temperature (B,), where 0 means the arg-max. With `top_k`, only the k
    likeliest tokens can come.
    """
    greedy = logits.argmax(dim=-1)
    if not bool((temperature > 0).any()):
        return greedy
    k = min(top_k or logits.size(-1), logits.size(-1))
    values, ids = logits.topk(k, dim=-1)  # (B, k), likeliest first
    probabilities = torch.softmax(values / temperature.clamp(min=1e-6)[:, None], dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    threshold = (uniform.to(cumulative) * cumulative[:, -1])[:, None]
    chosen = torch.searchsorted(cumulative, threshold, right=True).clamp(max=k - 1)
    return torch.where(temperature > 0, ids.gather(1, chosen)[:, 0], greedy)
