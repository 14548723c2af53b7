"""An RL step as one writes it in plain PyTorch: what benchmarks/rl.py compares the project's with.

Questions one after the other, the samples of each in passes of eight rows: the prompt goes through the model once for
all rows of a pass, from then on each new token does beside keys and values kept in contiguous buffers, and a pass ends
when its longest answer does. Then all rows, eight at a time, go through the model again for log-probabilities of every
position. Eager, float32, classic architecture. Frozen: it changes only where PyTorch's own idiom does.

B rows, T tokens, C width, H heads, D head size, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.model.gpt import GPT, LOGIT_CAP, rms_norm, rotary_tables, rotate

PASS_ROWS = 8
ROPE_BASE = 10_000.0

Row = tuple[list[int], int, float]  # prompt and answer, the prompt's length, the advantage


@torch.inference_mode()
def sample_question(
    model: GPT, prompt: Sequence[int], num_samples: int, new_tokens: int, ends: Sequence[int], seed: int
) -> list[list[int]]:
    """Return `num_samples` answers: ids up to and with the one that ends them."""
    answers = []
    for first in range(0, num_samples, PASS_ROWS):
        generators = [np.random.default_rng([seed, sample]) for sample in range(first, first + PASS_ROWS)]
        answers += sample_pass(model, prompt, generators[: num_samples - first], new_tokens, ends)
    return answers


def sample_pass(
    model: GPT, prompt: Sequence[int], generators: Sequence[np.random.Generator], new_tokens: int, ends: Sequence[int]
) -> list[list[int]]:
    """Return an answer for each generator, drawn from the softmax by its uniform numbers."""
    rows, capacity = len(generators), len(prompt) + new_tokens
    attention = model.blocks[0].attn
    shape = (2, rows, attention.n_head, capacity, attention.head_size)
    caches = [torch.empty(shape) for _ in model.blocks]
    tables = rotary_tables(capacity, attention.head_size, ROPE_BASE, torch.device("cpu"))
    answers: list[list[int]] = [[] for _ in generators]
    is_done = [False] * rows
    idx, start = torch.tensor([list(prompt)] * rows), 0
    for _ in range(new_tokens):
        running = torch.softmax(last_logits(model, idx, caches, tables, start), dim=-1).double().cumsum(dim=-1)
        uniform = torch.tensor([[generator.random()] for generator in generators], dtype=torch.float64)
        tokens = torch.searchsorted(running, uniform * running[:, -1:], right=True)[:, 0].tolist()
        for row, token in enumerate(tokens):
            if not is_done[row]:
                answers[row].append(token)
                is_done[row] = token in ends
        if all(is_done):
            break
        start += idx.size(1)
        idx = torch.tensor(tokens)[:, None]
    return answers


def last_logits(model: GPT, idx: Tensor, caches: list[Tensor], tables: tuple[Tensor, Tensor], start: int) -> Tensor:
    """Return the logits (B, V) after the last of idx (B, T), whose first position is `start`."""
    B, T = idx.shape
    end = start + T
    cos, sin = (table[None, start:end, None] for table in tables)
    x = rms_norm(model.wte(idx))
    for block, cache in zip(model.blocks, caches, strict=True):
        attention, h = block.attn, rms_norm(x)
        q, k, v = (c(h).view(B, T, -1, attention.head_size) for c in (attention.c_q, attention.c_k, attention.c_v))
        q, k = rms_norm(rotate(q, cos, sin)), rms_norm(rotate(k, cos, sin))
        cache[0, :, :, start:end], cache[1, :, :, start:end] = k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), cache[0, :, :, :end], cache[1, :, :, :end], is_causal=start == 0
        )
        x = x + attention.c_proj(y.transpose(1, 2).reshape(B, T, -1))
        x = x + block.mlp.c_proj(F.relu(block.mlp.c_fc(rms_norm(x))).square())
    logits = model.lm_head(rms_norm(x[:, -1]))[:, : model.vocab_size]
    return LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)


def add_gradients(model: GPT, rows: Sequence[Row]) -> float:
    """Add the gradients of Σ −advantage · log p / (learned tokens) over the rows; return that loss."""
    total, count = 0.0, sum(len(ids) - start for ids, start, _ in rows)
    for first in range(0, len(rows), PASS_ROWS):
        piece = rows[first : first + PASS_ROWS]
        width = max(len(ids) for ids, _, _ in piece)
        idx = torch.tensor([ids + [0] * (width - len(ids)) for ids, _, _ in piece])
        places = torch.arange(1, width)
        mask = torch.stack([(places >= start) & (places < len(ids)) for ids, start, _ in piece])
        losses = F.cross_entropy(model(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten(), reduction="none")
        advantages = torch.tensor([advantage for _, _, advantage in piece])[:, None]
        loss = (losses.view_as(mask) * mask * advantages).sum() / count
        loss.backward()
        total += loss.item()
    return total
