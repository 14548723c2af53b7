import math

import pytest

from nanochat_core.model.accounting import scaling_parameters
from nanochat_core.optim.scaling import (
    REFERENCE_BATCH_TOKENS,
    REFERENCE_WEIGHT_DECAY,
    batch_tokens,
    horizon_tokens,
    rate_batch_factor,
    rate_width_factor,
    train_shards,
    weight_decay,
)
from nanochat_core.specs import ModelSpec

VOCAB_SIZE = 32_768


def test_classic_has_a_fixed_batch_no_decay_and_twenty_tokens_a_parameter() -> None:
    for depth in (4, 20, 32):
        model = ModelSpec(depth=depth)
        assert batch_tokens(model, VOCAB_SIZE, 20) == 2**19
        assert weight_decay(model, VOCAB_SIZE, 20) == 0.0
        assert rate_batch_factor(model, 2**21) == 1.0
        assert horizon_tokens(model, VOCAB_SIZE, 20) == 20 * scaling_parameters(model, VOCAB_SIZE)


def test_full_is_the_reference_at_the_reference_depth_whatever_the_ratio() -> None:
    model = ModelSpec(arch="full", depth=12)
    for ratio in (8, 12, 20):
        assert batch_tokens(model, VOCAB_SIZE, ratio) == REFERENCE_BATCH_TOKENS
        assert weight_decay(model, VOCAB_SIZE, ratio) == pytest.approx(REFERENCE_WEIGHT_DECAY)


def test_full_batches_are_powers_of_two_that_grow_with_depth_while_the_decay_falls() -> None:
    models = [ModelSpec(arch="full", depth=depth) for depth in range(4, 33, 4)]
    batches = [batch_tokens(model, VOCAB_SIZE, 12) for model in models]
    decays = [weight_decay(model, VOCAB_SIZE, 12) for model in models]
    assert [math.log2(batch) for batch in batches] == [18, 18, 19, 19, 20, 20, 20, 21]
    assert decays == sorted(decays, reverse=True)


def test_four_times_the_batch_doubles_the_rates_of_full() -> None:
    assert rate_batch_factor(ModelSpec(arch="full"), 4 * REFERENCE_BATCH_TOKENS) == 2.0


def test_the_rates_of_a_small_batch_are_those_of_the_least_that_was_tuned() -> None:
    model = ModelSpec(arch="full")
    least = rate_batch_factor(model, REFERENCE_BATCH_TOKENS // 2)
    assert least == pytest.approx(0.707, abs=1e-3)
    assert rate_batch_factor(model, 2048) == least


def test_four_times_the_width_halves_the_rates_of_embedding_and_head() -> None:
    assert rate_width_factor(4 * 768) == 0.5


def test_shards_hold_the_tokens_with_a_tenth_in_reserve() -> None:
    assert train_shards(1) == 1
    assert train_shards(1_000, characters_per_token=4.0, shard_characters=1_000) == 5
