"""Generation as one writes it in plain PyTorch: what benchmarks/serve.py compares the project's engine with.

One request after another, eagerly, in float32. The prompt goes through the model once; from then on each token does,
beside keys and values kept in one contiguous buffer for each layer, made once and written in place. Attention is
F.scaled_dot_product_attention, windowed layers are shown their window alone, and the head computes the last position
only. Tokens are chosen greedily or from the softmax over a temperature. Frozen: it changes only where PyTorch's own
idiom does.

T tokens, S tokens so far, C width, H heads, D head size, V vocabulary. There is one row.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.baselines.plain_gpt import (
    GATE_CHANNELS,
    GATE_GAIN,
    HEAD_SIZE,
    LOGIT_CAP,
    MLP,
    QK_GAIN,
    ROPE_BASE,
    SMEAR_CHANNELS,
    apply_rotary,
    norm,
    window_mask,
)

CLASSIC_ROPE_BASE = 10_000.0


class LayerCache:
    """Keys and values of one layer, (1, H, capacity, D) each."""

    def __init__(self, n_head: int, capacity: int) -> None:
        self.keys = torch.empty(1, n_head, capacity, HEAD_SIZE)
        self.values = torch.empty(1, n_head, capacity, HEAD_SIZE)

    def append(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write k and v (1, H, T, D) at `start` and return all so far, (1, H, S, D) each."""
        end = start + k.size(2)
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    def __init__(self, width: int, has_values: bool, window: int | None, qk_gain: float) -> None:
        super().__init__()
        self.n_head, self.window, self.qk_gain = width // HEAD_SIZE, window, qk_gain
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_k = nn.Linear(width, width, bias=False)
        self.c_v = nn.Linear(width, width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.value_gate = nn.Linear(GATE_CHANNELS, self.n_head, bias=False) if has_values else None

    def forward(
        self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, cache: LayerCache, start: int
    ) -> Tensor:
        _, T, C = x.shape
        q = self.c_q(x).view(1, T, self.n_head, HEAD_SIZE).transpose(1, 2)  # (1, H, T, D)
        k = self.c_k(x).view(1, T, self.n_head, HEAD_SIZE).transpose(1, 2)
        v = self.c_v(x).view(1, T, self.n_head, HEAD_SIZE)
        if self.value_gate is not None:
            gate = GATE_GAIN * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))  # (1, T, H)
            v = v + gate.unsqueeze(-1) * values.view_as(v)
        q = self.qk_gain * norm(apply_rotary(q, cos, sin))
        k = self.qk_gain * norm(apply_rotary(k, cos, sin))
        k, v = cache.append(k, v.transpose(1, 2), start)
        y = self._attend(q, k, v)
        return self.c_proj(y.transpose(1, 2).reshape(1, T, C))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (1, H, T, D) of a whole prompt, or of the one token that is the last of k and v."""
        if q.size(2) == 1:
            seen = slice(None) if self.window is None else slice(max(0, k.size(2) - 1 - self.window), None)
            return F.scaled_dot_product_attention(q, k[:, :, seen], v[:, :, seen])
        if self.window is None or self.window >= q.size(2) - 1:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(q.size(2), self.window))


class Block(nn.Module):
    def __init__(self, width: int, has_values: bool, window: int | None, qk_gain: float) -> None:
        super().__init__()
        self.attn = Attention(width, has_values, window, qk_gain)
        self.mlp = MLP(width)

    def forward(
        self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, cache: LayerCache, start: int
    ) -> Tensor:
        x = x + self.attn(norm(x), values, cos, sin, cache, start)
        return x + self.mlp(norm(x))


class PlainGenerator(nn.Module):
    """The model of either `arch`; the names of its parameters are those of the project's own."""

    def __init__(self, arch: str, depth: int, width: int, vocab_size: int, sequence_len: int) -> None:
        super().__init__()
        self.is_full = arch == "full"
        short = -(-sequence_len // 4 // 128) * 128
        is_short = [self.is_full and layer % 4 != 3 and layer != depth - 1 for layer in range(depth)]
        self.has_values = [self.is_full and layer % 2 == (depth - 1) % 2 for layer in range(depth)]
        self.wte = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(
            Block(width, has, short if is_windowed else None, QK_GAIN if self.is_full else 1.0)
            for has, is_windowed in zip(self.has_values, is_short, strict=True)
        )
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        if self.is_full:
            layers = [layer for layer in range(depth) if self.has_values[layer]]
            self.value_embeds = nn.ModuleDict({str(layer): nn.Embedding(vocab_size, width) for layer in layers})
            self.residual_scale = nn.Parameter(torch.ones(depth))
            self.input_scale = nn.Parameter(torch.zeros(depth))
            self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
            self.smear_scale = nn.Parameter(torch.zeros(1))
            self.backout_scale = nn.Parameter(torch.zeros(1))
        base = ROPE_BASE if self.is_full else CLASSIC_ROPE_BASE
        frequency = base ** (-torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE)
        angle = torch.outer(torch.arange(sequence_len).float(), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    @torch.inference_mode()
    def generate(self, ids: list[int], new_tokens: int, *, temperature: float = 0.0, seed: int = 0) -> Iterator[int]:
        """Yield `new_tokens` tokens after `ids`, each as soon as it is there; 0 is greedy."""
        generator = torch.Generator().manual_seed(seed)
        capacity = len(ids) + new_tokens
        caches = [LayerCache(block.attn.n_head, capacity) for block in self.blocks]
        idx, start, before = torch.tensor([ids]), 0, None
        for _ in range(new_tokens):
            logits, before = self._last_logits(idx, caches, start, before)
            if temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator))
            start += idx.size(1)
            idx = torch.tensor([[token]])
            yield token

    def _last_logits(
        self, idx: Tensor, caches: list[LayerCache], start: int, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (V,) after the last of idx (1, T), and its embedding, which the next call is given."""
        embedded = x = norm(self.wte(idx))  # (1, T, C)
        if self.is_full:
            earlier = torch.cat((torch.zeros_like(x[:, :1]) if before is None else before, x[:, :-1]), dim=1)
            gate = self.smear_scale * torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))
            x = x + gate * earlier
        end = start + idx.size(1)
        cos, sin = self.cos[start:end], self.sin[start:end]
        first = x
        for layer, block in enumerate(self.blocks):
            if self.is_full:
                x = self.residual_scale[layer] * x + self.input_scale[layer] * first
            values = self.value_embeds[str(layer)](idx) if self.has_values[layer] else None
            x = block(x, values, cos, sin, caches[layer], start)
            if layer == len(self.blocks) // 2:
                middle = x
        if self.is_full:
            x = x - self.backout_scale * middle
        logits = self.lm_head(norm(x[0, -1]))
        return LOGIT_CAP * torch.tanh(logits / LOGIT_CAP), embedded[:, -1:]
