"""A bigram table as the bar that a trained model must pass: what counting pairs of tokens alone predicts.

P(b | a) = (count(ab) + α·P(b)) / (count(a) + α), with P(b) the add-one unigram and α chosen, from a few values, as the
best on the validation rows themselves: the strongest table of this kind.
"""

import math

import numpy as np
from torch import Tensor

MAX_VOCAB_SIZE = 8192
ALPHAS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def bigram_bits_per_byte(tokens: np.ndarray, rows: Tensor, token_bytes: np.ndarray) -> float | None:
    """Return the table's bpb on `rows` (n, T + 1), fitted to `tokens` (N,); None for too large a vocabulary."""
    vocab_size = len(token_bytes)
    if vocab_size > MAX_VOCAB_SIZE:
        return None
    codes = tokens[:-1].astype(np.int64) * vocab_size + tokens[1:]
    pairs = np.bincount(codes, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    firsts = pairs.sum(axis=1)
    unigram = (np.bincount(tokens, minlength=vocab_size) + 1.0) / (len(tokens) + vocab_size)
    before, after = rows[:, :-1].numpy().ravel(), rows[:, 1:].numpy().ravel()
    sizes = token_bytes[after]
    counted = sizes > 0
    nats = [
        -np.log((pairs[before, after] + alpha * unigram[after]) / (firsts[before] + alpha))[counted].sum()
        for alpha in ALPHAS
    ]
    return float(min(nats) / (math.log(2) * sizes.sum()))
