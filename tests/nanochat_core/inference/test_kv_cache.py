"""A cache changes what a forward pass costs, never what it gives."""

import pytest
import torch

from nanochat_core.inference.kv_cache import KVCache
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch, ModelSpec
from tests.nanochat_core.inference.test_engine import random_model

CPU = torch.device("cpu")
IDX = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(0))


def new_cache(model: GPT, rows: int = 3, capacity: int = 24) -> KVCache:
    return KVCache(model.spec, rows, capacity, device=CPU, dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[20], [1] * 20, [5, 1, 1, 9, 4], [19, 1]])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_tokens_in_pieces_give_the_logits_of_the_whole(pieces: list[int], n_kv_head: int, arch: Arch) -> None:
    model = random_model(n_kv_head=n_kv_head, arch=arch)
    cache, found = new_cache(model), []
    for piece in IDX.split(pieces, dim=1):
        found.append(model(piece, cache))
        cache.advance(piece.size(1))
    torch.testing.assert_close(torch.cat(found, dim=1), model(IDX), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tokens_beyond_a_window_are_seen_no_more_with_a_cache_and_without() -> None:
    spec = ModelSpec(arch="full", depth=2, n_embd=32, n_head=2, n_kv_head=1, sequence_len=512)
    model = GPT(spec, 200)
    init_weights(model, 0)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            parameter.normal_(std=0.1)
    idx = torch.randint(0, 200, (2, 300), generator=torch.Generator().manual_seed(0))
    cache, found = new_cache(model, rows=2, capacity=300), []
    for piece in idx.split([140, 1, 100, 59], dim=1):
        found.append(model(piece, cache))
        cache.advance(piece.size(1))
    torch.testing.assert_close(torch.cat(found, dim=1), model(idx), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_rows_of_different_lengths_go_on_at_their_own_positions(arch: Arch) -> None:
    model, lengths = random_model(arch=arch), [3, 9, 6]
    cache = new_cache(model)
    padded = IDX[:, :9].clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = 0
    model(padded, cache)
    cache.advance(torch.tensor(lengths))
    for step in range(4):
        new = torch.stack([IDX[row, length + step] for row, length in enumerate(lengths)])[:, None]
        logits = model(new, cache)
        cache.advance(1)
        for row, length in enumerate(lengths):
            expected = model(IDX[row : row + 1, : length + step + 1])[0, -1]
            torch.testing.assert_close(logits[row, -1], expected, rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [7, 13, 10]
    assert cache.longest == 13


@torch.no_grad()
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_rows_can_be_dropped_reordered_and_doubled(arch: Arch) -> None:
    model = random_model(arch=arch)
    cache = new_cache(model)
    model(IDX[:, :8], cache)
    cache.advance(torch.tensor([8, 5, 8]))
    cache.select(torch.tensor([1, 0, 1, 1]))
    assert (cache.lengths.tolist(), cache.longest) == ([5, 8, 5, 5], 8)
    logits = model(torch.tensor([[7], [7], [8], [7]]), cache)[:, -1]
    for place, (row, length, token) in enumerate([(1, 5, 7), (0, 8, 7), (1, 5, 8), (1, 5, 7)]):
        expected = model(torch.cat((IDX[row, :length], torch.tensor([token])))[None])[0, -1]
        torch.testing.assert_close(logits[place], expected, rtol=1e-4, atol=1e-5)
