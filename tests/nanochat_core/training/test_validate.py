"""Bits per byte, and the bigram table that a model must pass, against slow versions."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.model.loss import IGNORED
from nanochat_core.training import validate
from nanochat_core.training.bigram import ALPHAS, MAX_VOCAB_SIZE, bigram_bits_per_byte
from nanochat_core.training.validate import bits_per_byte, held_out_losses, row_batches
from tests.nanochat_core.inference.test_engine import random_model

WORLD = World(0, 1, torch.device("cpu"))


@torch.no_grad()
def test_bits_per_byte_count_only_targets_that_have_bytes() -> None:
    model = random_model()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, model.vocab_size, (5, 9), generator=generator)
    sizes = torch.randint(0, 4, (model.vocab_size,), generator=generator, dtype=torch.int32)
    nats = size = 0.0
    for row in rows.tolist():
        logprobs = torch.log_softmax(model(torch.tensor([row[:-1]]))[0].double(), -1)
        for place, target in enumerate(row[1:]):
            if sizes[target] > 0:
                nats -= float(logprobs[place, target])
                size += int(sizes[target])
    found = bits_per_byte(model, rows, sizes, WORLD, batch_rows=2)
    assert found == pytest.approx(nats / math.log(2) / size, rel=1e-5)


@torch.no_grad()
def test_the_held_out_loss_counts_every_learned_target_and_bpb_those_with_bytes() -> None:
    model = random_model()
    idx = torch.tensor([[1, 2, 3], [4, 5, 6]])
    targets = torch.tensor([[2, 3, IGNORED], [IGNORED, 6, 7]])
    sizes = torch.arange(model.vocab_size, dtype=torch.int32)
    sizes[6] = 0  # a special token
    logprobs = torch.log_softmax(model(idx).double(), -1)
    nats = [-float(logprobs[row, column, targets[row, column]]) for row, column in ((0, 0), (0, 1), (1, 1), (1, 2))]
    found = held_out_losses(model, [(idx[:1], targets[:1]), (idx[1:], targets[1:])], sizes, WORLD)
    assert found["val/loss"] == pytest.approx(sum(nats) / 4, rel=1e-5)
    assert found["val/bpb"] == pytest.approx((nats[0] + nats[1] + nats[3]) / math.log(2) / (2 + 3 + 7), rel=1e-5)
    assert "val/bpb" not in held_out_losses(model, [(idx, targets)], torch.zeros_like(sizes), WORLD)


@torch.no_grad()
def test_bits_per_byte_by_position_are_those_of_a_loop_over_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "FIRST_BUCKET", 4)
    model = random_model()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, model.vocab_size, (5, 12), generator=generator)
    sizes = torch.randint(0, 4, (model.vocab_size,), generator=generator, dtype=torch.int32)
    nats, bytes_ = [0.0] * 3, [0] * 3  # positions 0 to 3, 4 to 7, 8 to 10
    for row in rows.tolist():
        logprobs = torch.log_softmax(model(torch.tensor([row[:-1]]))[0].double(), -1)
        for place, target in enumerate(row[1:]):
            if sizes[target] > 0:
                nats[place // 4] -= float(logprobs[place, target])
                bytes_[place // 4] += int(sizes[target])
    batches = row_batches(rows, WORLD, batch_rows=2)
    found = held_out_losses(model, batches, sizes, WORLD, positions=11)
    for bucket, first in enumerate((0, 4, 8)):
        expected = nats[bucket] / math.log(2) / bytes_[bucket]
        assert found[f"val/bpb_at_{first}"] == pytest.approx(expected, rel=1e-5)
    assert found["val/bpb"] == pytest.approx(bits_per_byte(model, rows, sizes, WORLD, batch_rows=5), rel=1e-6)
    assert list(held_out_losses(model, [(rows[:, :3], rows[:, 1:4])], sizes, WORLD, positions=3)) == [
        "val/loss",
        "val/bpb",
    ]  # one bucket would say it twice


def test_the_bigram_table_is_that_of_a_dictionary_of_pairs() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, 300).astype(np.int32)
    rows = torch.from_numpy(rng.integers(0, 6, (4, 10)))
    sizes = np.array([0, 1, 2, 1, 1, 3], dtype=np.int32)
    pairs, firsts, singles = Counter(itertools.pairwise(tokens)), Counter(tokens[:-1]), Counter(tokens)
    best = min(slow_bigram(rows.tolist(), sizes, pairs, firsts, singles, len(tokens), alpha) for alpha in ALPHAS)
    assert bigram_bits_per_byte(tokens, rows, sizes) == pytest.approx(best, rel=1e-9)


def slow_bigram(rows, sizes, pairs, firsts, singles, count, alpha) -> float:
    nats = size = 0.0
    for row in rows:
        for a, b in itertools.pairwise(row):
            if sizes[b]:
                unigram = (singles[b] + 1) / (count + len(sizes))
                nats -= math.log((pairs[a, b] + alpha * unigram) / (firsts[a] + alpha))
                size += sizes[b]
    return nats / math.log(2) / size


def test_a_large_vocabulary_has_no_table() -> None:
    sizes = np.ones(MAX_VOCAB_SIZE + 1, dtype=np.int32)
    assert bigram_bits_per_byte(np.zeros(9, dtype=np.int32), torch.zeros(1, 3, dtype=torch.int64), sizes) is None
