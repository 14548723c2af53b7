"""Batch size, horizon and rate multipliers from the size of the model. Pure functions, torch-free.

classic: the fixed rules of the Oct 2025 recipe. full: tuned at depth 12 and carried over by the Power Lines exponent
(Bergsma et al. 2025, batch ~ tokens^0.383), the square-root rule for rates, and a constant B / (rate · decay · tokens).
"""

import math

from nanochat_core.model.accounting import scaling_parameters
from nanochat_core.specs import ModelSpec

REFERENCE_BATCH_TOKENS = 2**19
LEAST_TUNED_BATCH_TOKENS = 2**18
REFERENCE_DEPTH = 12
REFERENCE_WIDTH = 768
REFERENCE_WEIGHT_DECAY = 0.28
CHARACTERS_PER_TOKEN = 4.8
SHARD_CHARACTERS = 250_000_000  # of the pretraining data sets on the Hub


def _reference_tokens(model: ModelSpec, vocab_size: int, ratio: float) -> float:
    reference = ModelSpec(arch="full", depth=REFERENCE_DEPTH, sequence_len=model.sequence_len)
    return ratio * scaling_parameters(reference, vocab_size)


def horizon_tokens(model: ModelSpec, vocab_size: int, ratio: float) -> int:
    """Return the number of training tokens: `ratio` for each parameter that counts."""
    return int(ratio * scaling_parameters(model, vocab_size))


def batch_tokens(model: ModelSpec, vocab_size: int, ratio: float) -> int:
    """Return the tokens of an optimizer step: 2^19 for classic, the nearest power of two of the rule for full.

    >>> batch_tokens(ModelSpec(arch="full", depth=24), 32_768, 12)
    1048576
    """
    if model.arch == "classic":
        return REFERENCE_BATCH_TOKENS
    growth = horizon_tokens(model, vocab_size, ratio) / _reference_tokens(model, vocab_size, ratio)
    return 2 ** round(math.log2(REFERENCE_BATCH_TOKENS * growth**0.383))


def weight_decay(model: ModelSpec, vocab_size: int, ratio: float, total_batch_tokens: int | None = None) -> float:
    """Return Muon's decay: none for classic; .28·√(B/B_ref)·(D_ref/D) for full. B is the rule's where not given.

    >>> round(weight_decay(ModelSpec(arch="full", depth=24), 32_768, 12), 4)
    0.0597
    """
    if model.arch == "classic":
        return 0.0
    shrink = _reference_tokens(model, vocab_size, ratio) / horizon_tokens(model, vocab_size, ratio)
    batch = total_batch_tokens or batch_tokens(model, vocab_size, ratio)
    return REFERENCE_WEIGHT_DECAY * math.sqrt(batch / REFERENCE_BATCH_TOKENS) * shrink


def rate_batch_factor(model: ModelSpec, total_batch_tokens: int) -> float:
    """Return the multiplier of the rates for the batch size: 1 for classic, √(B/2^19) for full.

    The square root was tuned at 2^18 tokens and more; the rates of smaller batches are those of 2^18. At 2,048 tokens
    the square root learns little in the same steps (docs/experiments.md).

    >>> rate_batch_factor(ModelSpec(arch="full"), 2**21)
    2.0
    """
    if model.arch == "classic":
        return 1.0
    return math.sqrt(max(total_batch_tokens, LEAST_TUNED_BATCH_TOKENS) / REFERENCE_BATCH_TOKENS)


def rate_width_factor(n_embd: int) -> float:
    """Return the multiplier of the AdamW rates of embedding and head: (C/768)^-½.

    >>> rate_width_factor(768)
    1.0
    """
    return (n_embd / REFERENCE_WIDTH) ** -0.5


def train_shards(
    tokens: int, *, characters_per_token: float = CHARACTERS_PER_TOKEN, shard_characters: int = SHARD_CHARACTERS
) -> int:
    """Return how many shards hold `tokens` tokens, with a tenth in reserve."""
    return shards_of(tokens * characters_per_token, shard_characters=shard_characters)


def shards_of(characters: float, *, shard_characters: int = SHARD_CHARACTERS) -> int:
    """Return how many shards hold so many characters, with a tenth in reserve.

    >>> shards_of(2_000_000_000)
    9
    """
    return max(1, math.ceil(1.1 * characters / shard_characters))
