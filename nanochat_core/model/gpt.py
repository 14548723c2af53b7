"""GPT: both block sets of nanochat in one file (`model/blocks.py` says which ingredient belongs to which).

    e = rms(E[idx]);  x = x0 = e + smear;  per layer i:
        x = r_i·x + z_i·x0;  x += Attention(rms(x));  x += MLP(rms(x));  m = x in the middle layer
    logits = 15·tanh(rms(x − β·m) Uᵀ / 15)

Rotary positions (Su et al. 2021), rms-normalised queries and keys (Henry et al. 2020), relu² (So et al. 2021), grouped
key/value heads (Ainslie et al. 2023), soft-capped logits (Gemma 2), untied head, no biases, no learned norm gains.
`full` adds sliding windows, value embeddings (Zhou et al. 2024), smear, backout and residual scalars (modded-nanogpt).

B rows, T tokens, S cached tokens, C width, H heads, K key/value heads, D head size, V vocabulary.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat_core.model.accounting import (
    SMEAR_CHANNELS,
    VALUE_GATE_CHANNELS,
    attention_windows,
    value_embedding_layers,
)
from nanochat_core.model.attention import Attend, causal_attention
from nanochat_core.model.blocks import BLOCK_SETS, BlockSet, rope_base
from nanochat_core.model.fp8 import Fp8Weight, fp8_linear
from nanochat_core.model.shared_rows import SharedRows
from nanochat_core.specs import ModelSpec

LOGIT_CAP = 15.0
VALUE_GATE_GAIN = 3.0

Rotary = tuple[Tensor, Tensor]


def rms_norm(x: Tensor) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) over the last dimension; eps is the dtype's."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(length: int, head_size: int, base: float, device: torch.device) -> Rotary:
    """Return cos and sin, each float32 (length, D/2); the angle of pair j at position t is t / base^(2j/D)."""
    frequency = base ** (-torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size)
    angle = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + D/2) of x (…, H, D) by −angle; cos and sin broadcast to (…, 1, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Linear(nn.Linear):
    """A matrix without bias whose float32 weight is cast to its input's dtype at each use.

    Where `fp8` copies of the weight are there, training computes with these.
    """

    fp8: Fp8Weight | None = None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.fp8 is not None and self.training:
            return fp8_linear(x, self.weight, self.fp8)
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Causal self-attention with rotary, normalised queries and keys, over a window of keys."""

    def __init__(self, spec: ModelSpec, blocks: BlockSet, layer: int) -> None:
        super().__init__()
        self.layer, self.qk_gain = layer, blocks.qk_gain
        self.attend: Attend = causal_attention
        self.n_head, self.n_kv_head = spec.n_head, spec.n_kv_head
        self.head_size = spec.n_embd // spec.n_head
        self.window = attention_windows(spec)[layer] if blocks.windows else None
        kv_width = self.n_kv_head * self.head_size
        self.c_q = Linear(spec.n_embd, spec.n_embd)
        self.c_k = Linear(spec.n_embd, kv_width)
        self.c_v = Linear(spec.n_embd, kv_width)
        self.c_proj = Linear(spec.n_embd, spec.n_embd)
        if blocks.value_embeddings and layer in value_embedding_layers(spec.depth):
            self.value_gate = Linear(VALUE_GATE_CHANNELS, self.n_kv_head)

    def forward(self, x: Tensor, values: Tensor | None, rotary: Rotary, shared: SharedRows | None = None) -> Tensor:
        """Return (B, T, C) for the normalised stream x (B, T, C); `values` (B, T, K·D) are the layer's own."""
        rows, length, _ = x.shape
        q = self.c_q(x).view(rows, length, self.n_head, self.head_size)  # (B, T, H, D)
        k = self.c_k(x).view(rows, length, self.n_kv_head, self.head_size)  # (B, T, K, D)
        v = self.c_v(x).view(rows, length, self.n_kv_head, self.head_size)
        if values is not None:
            gate = VALUE_GATE_GAIN * torch.sigmoid(self.value_gate(x[..., :VALUE_GATE_CHANNELS]))  # (B, T, K)
            v = v + gate[..., None] * values.view_as(v)
        q, k = rms_norm(rotate(q, *rotary)), rms_norm(rotate(k, *rotary))
        q = q * self.qk_gain**2  # the gain of q and that of k at once
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H | K, T, D)
        attend = self.attend if shared is None else partial(shared.attend, attend=self.attend)
        y = attend(q, k, v, self.window)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(rows, length, -1))  # (B, T, C)


class MLP(nn.Module):
    """W_2 · relu(W_1 u)²."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.c_fc = Linear(spec.n_embd, 4 * spec.n_embd)
        self.c_proj = Linear(4 * spec.n_embd, spec.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention, then MLP, each on the normalised residual stream."""

    def __init__(self, spec: ModelSpec, blocks: BlockSet, layer: int) -> None:
        super().__init__()
        self.attn = Attention(spec, blocks, layer)
        self.mlp = MLP(spec)

    def forward(self, x: Tensor, values: Tensor | None, rotary: Rotary, shared: SharedRows | None = None) -> Tensor:
        x = x + self.attn(rms_norm(x), values, rotary, shared)
        return x + self.mlp(rms_norm(x))


class GPT(nn.Module):
    """The model of a resolved `ModelSpec` (widths and heads filled in). Weights are undefined until `init_weights`.

    It computes in `compute_dtype`; matrices are float32 and cast at each use. `blocks`: other ingredients than those of
    the spec's `arch`.
    """

    def __init__(self, spec: ModelSpec, vocab_size: int, blocks: BlockSet | None = None) -> None:
        super().__init__()
        self.spec, self.vocab_size = spec, vocab_size
        self.blocks_set = blocks = blocks or BLOCK_SETS[spec.arch]
        self.compute_dtype = torch.float32
        table_rows = -(-vocab_size // blocks.padded_vocab) * blocks.padded_vocab
        kv_width = spec.n_embd // spec.n_head * spec.n_kv_head
        self.wte = nn.Embedding(table_rows, spec.n_embd)
        self.blocks = nn.ModuleList(Block(spec, blocks, layer) for layer in range(spec.depth))
        self.lm_head = Linear(spec.n_embd, table_rows)
        if blocks.value_embeddings:
            layers = value_embedding_layers(spec.depth)
            self.value_embeds = nn.ModuleDict({str(layer): nn.Embedding(table_rows, kv_width) for layer in layers})
        if blocks.residual_scalars:
            self.residual_scale = nn.Parameter(torch.empty(spec.depth))
            self.input_scale = nn.Parameter(torch.empty(spec.depth))
        if blocks.smear:
            self.smear_gate = Linear(SMEAR_CHANNELS, 1)
            self.smear_scale = nn.Parameter(torch.empty(1))
        if blocks.backout:
            self.backout_scale = nn.Parameter(torch.empty(1))
        self._rotary: Rotary | None = None

    @property
    def device(self) -> torch.device:
        return self.wte.weight.device

    def rotary(self, length: int) -> Rotary:
        """Return cos and sin, (length, D/2) each, from a table that grows as needed."""
        if self._rotary is None or self._rotary[0].size(0) < length or self._rotary[0].device != self.device:
            size, head_size = max(length, self.spec.sequence_len), self.spec.n_embd // self.spec.n_head
            base = rope_base(self.spec, self.blocks_set)
            with torch.inference_mode(False):  # the engine may come first; training must be able to use the table too
                self._rotary = rotary_tables(size, head_size, base, self.device)
        cos, sin = self._rotary
        return cos[:length], sin[:length]

    def hidden(self, idx: Tensor, shared: SharedRows | None = None) -> Tensor:
        """Return the normalised last residual stream (B, T, C) for token ids `idx` (B, T), int64.

        With `shared`, idx are its ids: one line of rows that begin alike.
        """
        x = rms_norm(self.wte(idx).to(self.compute_dtype))
        if self.blocks_set.smear:
            x = self._smeared(x, shared)
        rotary = self._rotary_of(idx, shared)
        start, middle = x, None
        for layer, block in enumerate(self.blocks):
            if self.blocks_set.residual_scalars:
                x = self.residual_scale[layer].to(x.dtype) * x + self.input_scale[layer].to(x.dtype) * start
            x = block(x, self._values(layer, idx), rotary, shared)
            if layer == len(self.blocks) // 2:
                middle = x
        if self.blocks_set.backout:
            x = x - self.backout_scale.to(x.dtype) * middle
        return rms_norm(x)

    def _smeared(self, x: Tensor, shared: SharedRows | None) -> Tensor:
        """Return each embedding (B, T, C) with a gated share of the one before it in its row."""
        before = F.pad(x[:, :-1], (0, 0, 1, 0)) if shared is None else shared.states_before(x)
        gate = self.smear_scale.to(x.dtype) * torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))  # (B, T, 1)
        return x + gate * before

    def _values(self, layer: int, idx: Tensor) -> Tensor | None:
        """Return the values (B, T, K·D) of the tokens in a layer that has a table of them."""
        if not self.blocks_set.value_embeddings or str(layer) not in self.value_embeds:
            return None
        return self.value_embeds[str(layer)](idx).to(self.compute_dtype)

    def _rotary_of(self, idx: Tensor, shared: SharedRows | None) -> Rotary:
        """Return cos and sin of the tokens' positions, each broadcastable to (B, T, H, D/2)."""
        tables = self.rotary(idx.size(1))  # a line is at least as long as its rows
        if shared is not None:
            tables = tables[0][shared.positions], tables[1][shared.positions]
        cos, sin = (table[None, :, None].to(self.compute_dtype) for table in tables)
        return cos, sin

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the soft-capped logits (…, V), float32, of `hidden` (…, C)."""
        raw = self.lm_head(hidden)[..., : self.vocab_size]
        return LOGIT_CAP * torch.tanh(raw.float() / LOGIT_CAP)

    def forward(self, idx: Tensor) -> Tensor:
        """Return the logits (B, T, V), float32."""
        return self.logits(self.hidden(idx))
