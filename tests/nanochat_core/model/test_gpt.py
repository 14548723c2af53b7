"""The model against a slow version with one loop for each sum, and the promises that its parts make."""

import math

import pytest
import torch
from torch import Tensor

from nanochat_core.model.gpt import GPT, LOGIT_CAP, rms_norm, rotary_tables, rotate
from tests.nanochat_core.inference.test_engine import random_model

CPU = torch.device("cpu")


def slow_norm(vector: Tensor) -> Tensor:
    return vector / torch.sqrt((vector * vector).mean() + torch.finfo(vector.dtype).eps)


def slow_rotation(vector: Tensor, position: int) -> Tensor:
    """Turn the pairs (j, j + D/2) by −position / 10000^(2j/D), as complex numbers."""
    half = len(vector) // 2
    numbers = torch.complex(vector[:half], vector[half:])
    angles = torch.tensor([position / 10_000 ** (2 * pair / len(vector)) for pair in range(half)])
    turned = numbers * torch.exp(-1j * angles)
    return torch.cat((turned.real, turned.imag))


def slow_attention(model: GPT, layer: int, stream: list[Tensor]) -> list[Tensor]:
    """Return what attention adds to each token, one token and one head at a time."""
    attention, size = model.blocks[layer].attn, model.spec.n_embd // model.spec.n_head
    group = model.spec.n_head // model.spec.n_kv_head
    heads: list[list[Tensor]] = [[] for _ in stream]
    for head in range(model.spec.n_head):
        own, shared = slice(head * size, (head + 1) * size), slice(head // group * size, (head // group + 1) * size)
        inputs = [slow_norm(x) for x in stream]
        queries = [slow_norm(slow_rotation((attention.c_q.weight @ u)[own], t)) for t, u in enumerate(inputs)]
        keys = [slow_norm(slow_rotation((attention.c_k.weight @ u)[shared], t)) for t, u in enumerate(inputs)]
        values = [(attention.c_v.weight @ u)[shared] for u in inputs]
        for t, query in enumerate(queries):
            scores = torch.stack([query @ key for key in keys[: t + 1]]) / math.sqrt(size)
            heads[t].append(sum(p * v for p, v in zip(torch.softmax(scores, 0), values[: t + 1], strict=True)))
    return [attention.c_proj.weight @ torch.cat(parts) for parts in heads]


def slow_logits(model: GPT, ids: list[int]) -> Tensor:
    stream = [slow_norm(model.wte.weight[token]) for token in ids]
    for layer, block in enumerate(model.blocks):
        stream = [x + y for x, y in zip(stream, slow_attention(model, layer, stream), strict=True)]
        for t, x in enumerate(stream):
            stream[t] = x + block.mlp.c_proj.weight @ (block.mlp.c_fc.weight @ slow_norm(x)).clamp(min=0) ** 2
    return torch.stack([15 * torch.tanh(model.lm_head.weight @ slow_norm(x) / 15) for x in stream])


@torch.no_grad()
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_the_logits_are_those_of_the_slow_version(n_kv_head: int) -> None:
    model = random_model(n_kv_head=n_kv_head)
    ids = [3, 141, 59, 26, 53, 3]
    torch.testing.assert_close(model(torch.tensor([ids]))[0], slow_logits(model, ids), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_token_does_not_see_what_comes_after_it_nor_other_rows() -> None:
    model = random_model()
    idx = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    changed = idx.clone()
    changed[0, 7:] += 1
    before, after = model(idx), model(changed)
    torch.testing.assert_close(before[0, :7], after[0, :7])
    torch.testing.assert_close(before[1], after[1])
    assert (before[0, 7:] - after[0, 7:]).abs().amax(-1).gt(1e-3).all()


def test_queries_and_keys_see_only_how_far_apart_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 16, generator=generator)
    cos, sin = rotary_tables(64, 16, 10_000.0, CPU)
    turned = [[rotate(x, cos[[t], None], sin[[t], None]) for t in range(64)] for x in (q, k)]
    for distance in (0, 1, 9):
        products = torch.stack([(turned[0][t + distance] * turned[1][t]).sum() for t in range(50)])
        torch.testing.assert_close(products, products[:1].expand(50), rtol=1e-4, atol=1e-4)


def test_a_norm_leaves_unit_mean_square_whatever_the_scale() -> None:
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rms_norm(100 * x).square().mean(-1), torch.ones(3))
    torch.testing.assert_close(rms_norm(100 * x), rms_norm(x))


@torch.no_grad()
def test_logits_stay_within_the_cap_and_are_float32() -> None:
    model = random_model()
    logits = model.logits(1e6 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= LOGIT_CAP


def test_rows_longer_than_the_trained_length_continue_the_same_rotation() -> None:
    model = random_model()
    idx = torch.randint(0, 200, (1, 3 * model.spec.sequence_len), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        short, long = model(idx[:, :20]), model(idx)
    torch.testing.assert_close(long[:, :20], short)


def test_the_model_can_be_trained_after_it_has_generated() -> None:
    model = random_model()
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
