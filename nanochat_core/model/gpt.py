"""GPT, `arch: classic`: the plain block set of nanochat's October 2025 recipe.

    x = rms(E[idx]);  per layer  x += Attention(rms(x));  x += MLP(rms(x));  logits = 15·tanh(rms(x) Uᵀ / 15)

Rotary positions (Su et al. 2021), rms-normalised queries and keys (Henry et al. 2020), relu² (So et al. 2021), grouped
key/value heads (Ainslie et al. 2023), soft-capped logits (Gemma 2), untied head, no biases, no learned norm gains.

B rows, T tokens, S cached tokens, C width, H heads, K key/value heads, D head size, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat_core.model.attention import causal_attention
from nanochat_core.specs import ModelSpec

if TYPE_CHECKING:
    from nanochat_core.inference.kv_cache import KVCache

ROPE_BASE = 10_000.0
LOGIT_CAP = 15.0


def rms_norm(x: Tensor) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) over the last dimension; eps is the dtype's."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(length: int, head_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each float32 (length, D/2); the angle of pair j at position t is t / base^(2j/D)."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size)
    angle = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + D/2) of x (…, H, D) by −angle; cos and sin broadcast to (…, 1, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with rotary, normalised queries and keys."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = spec.n_head, spec.n_kv_head
        self.head_size = spec.n_embd // spec.n_head
        kv_width = self.n_kv_head * self.head_size
        self.c_q = nn.Linear(spec.n_embd, spec.n_embd, bias=False)
        self.c_k = nn.Linear(spec.n_embd, kv_width, bias=False)
        self.c_v = nn.Linear(spec.n_embd, kv_width, bias=False)
        self.c_proj = nn.Linear(spec.n_embd, spec.n_embd, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: "KVCache | None", layer: int) -> Tensor:
        rows, length, _ = x.shape
        q = self.c_q(x).view(rows, length, self.n_head, self.head_size)  # (B, T, H, D)
        k = self.c_k(x).view(rows, length, self.n_kv_head, self.head_size)  # (B, T, K, D)
        v = self.c_v(x).view(rows, length, self.n_kv_head, self.head_size)
        q, k = rms_norm(rotate(q, *rotary)), rms_norm(rotate(k, *rotary))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H | K, T, D)
        y = causal_attention(q, k, v) if cache is None else cache.attend(layer, q, k, v)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(rows, length, -1))  # (B, T, C)


class MLP(nn.Module):
    """W_2 · relu(W_1 u)²."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.c_fc = nn.Linear(spec.n_embd, 4 * spec.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * spec.n_embd, spec.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention, then MLP, each on the normalised residual stream."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.attn = Attention(spec)
        self.mlp = MLP(spec)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: "KVCache | None", layer: int) -> Tensor:
        x = x + self.attn(rms_norm(x), rotary, cache, layer)
        return x + self.mlp(rms_norm(x))


class GPT(nn.Module):
    """The model of a resolved `ModelSpec` (widths and heads filled in). Weights are undefined until `init_weights`."""

    def __init__(self, spec: ModelSpec, vocab_size: int) -> None:
        super().__init__()
        self.spec, self.vocab_size = spec, vocab_size
        self.wte = nn.Embedding(vocab_size, spec.n_embd)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.lm_head = nn.Linear(spec.n_embd, vocab_size, bias=False)
        self._rotary: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.wte.weight.device

    def rotary(self, length: int) -> tuple[Tensor, Tensor]:
        """Return cos and sin, (length, D/2) each, from a table that grows as needed."""
        if self._rotary is None or self._rotary[0].size(0) < length or self._rotary[0].device != self.device:
            size = max(length, self.spec.sequence_len)
            with torch.inference_mode(False):  # the engine may come first; training must be able to use the table too
                self._rotary = rotary_tables(size, self.spec.n_embd // self.spec.n_head, self.device)
        cos, sin = self._rotary
        return cos[:length], sin[:length]

    def hidden(self, idx: Tensor, cache: "KVCache | None" = None) -> Tensor:
        """Return the normalised last residual stream (B, T, C) for token ids `idx` (B, T), int64.

        With a cache, `idx` continues each row at its own position, and the cache takes the new keys and values.
        """
        if cache is None:
            cos, sin = (table[None, :, None] for table in self.rotary(idx.size(1)))  # (1, T, 1, D/2)
        else:
            positions = cache.positions(idx.size(1))  # (B, T)
            cos, sin = (table[positions][:, :, None] for table in self.rotary(cache.capacity))
        x = rms_norm(self.wte(idx))
        for layer, block in enumerate(self.blocks):
            x = block(x, (cos.to(x.dtype), sin.to(x.dtype)), cache, layer)
        return rms_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the soft-capped logits (…, V), float32, of `hidden` (…, C)."""
        return LOGIT_CAP * torch.tanh(self.lm_head(hidden).float() / LOGIT_CAP)

    def forward(self, idx: Tensor, cache: "KVCache | None" = None) -> Tensor:
        """Return the logits (B, T, V), float32."""
        return self.logits(self.hidden(idx, cache))
