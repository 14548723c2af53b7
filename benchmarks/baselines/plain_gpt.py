"""The model of `arch: full` as one writes it in plain PyTorch: what benchmarks/train.py compares the project's with.

nn.Linear, nn.Embedding, F.rms_norm, F.scaled_dot_product_attention (windows as a boolean mask), all logits in float32,
F.cross_entropy, torch.optim.AdamW(fused=True) for everything. Frozen: it changes only where PyTorch's own idiom does.

B rows, T tokens, C width, H heads, D head size, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_SIZE = 128
LOGIT_CAP = 15.0
QK_GAIN = 1.2
ROPE_BASE = 100_000.0
SMEAR_CHANNELS, GATE_CHANNELS, GATE_GAIN = 24, 12, 3.0


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + D/2) of x (B, H, T, D); cos and sin are (T, D/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def window_mask(length: int, window: int) -> Tensor:
    """Return which keys each query sees, bool (T, T): itself and the `window` before it."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance <= window)


class Attention(nn.Module):
    def __init__(self, width: int, has_values: bool) -> None:
        super().__init__()
        self.n_head = width // HEAD_SIZE
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_k = nn.Linear(width, width, bias=False)
        self.c_v = nn.Linear(width, width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.value_gate = nn.Linear(GATE_CHANNELS, self.n_head, bias=False) if has_values else None

    def forward(self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        B, T, C = x.shape
        q = self.c_q(x).view(B, T, self.n_head, HEAD_SIZE).transpose(1, 2)  # (B, H, T, D)
        k = self.c_k(x).view(B, T, self.n_head, HEAD_SIZE).transpose(1, 2)
        v = self.c_v(x).view(B, T, self.n_head, HEAD_SIZE)
        if self.value_gate is not None:
            gate = GATE_GAIN * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))  # (B, T, H)
            v = v + gate.unsqueeze(-1) * values.view_as(v)
        q = QK_GAIN * norm(apply_rotary(q, cos, sin))
        k = QK_GAIN * norm(apply_rotary(k, cos, sin))
        y = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), attn_mask=mask, is_causal=mask is None)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, width: int, has_values: bool) -> None:
        super().__init__()
        self.attn = Attention(width, has_values)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn(norm(x), values, cos, sin, mask)
        return x + self.mlp(norm(x))


class PlainGPT(nn.Module):
    """Value embeddings in every second layer, smear, backout, residual scalars; windows SSSL, the last layer's long."""

    def __init__(self, depth: int, width: int, vocab_size: int, sequence_len: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, width)
        self.has_values = [layer % 2 == (depth - 1) % 2 for layer in range(depth)]
        self.value_embeds = nn.ModuleDict(
            {str(layer): nn.Embedding(vocab_size, width) for layer in range(depth) if self.has_values[layer]}
        )
        self.blocks = nn.ModuleList(Block(width, has) for has in self.has_values)
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        share = torch.linspace(0, 1, depth)
        self.residual_scale = nn.Parameter(1.15 - 0.10 * share)
        self.input_scale = nn.Parameter(0.20 - 0.15 * share)
        self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
        self.smear_scale = nn.Parameter(torch.zeros(1))
        self.backout_scale = nn.Parameter(torch.full((1,), 0.2))
        frequency = ROPE_BASE ** (-torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE)
        angle = torch.outer(torch.arange(sequence_len).float(), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        short = -(-sequence_len // 4 // 128) * 128
        self.register_buffer("mask", window_mask(sequence_len, short), persistent=False)
        self.is_short = [layer % 4 != 3 and layer != depth - 1 for layer in range(depth)]
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        bound = (3 / self.wte.embedding_dim) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.zero_()
            elif parameter.dim() == 2:
                parameter.uniform_(-bound, bound)
        self.wte.weight.normal_(std=0.8)
        self.lm_head.weight.normal_(std=0.001)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss in nats of `targets` (B, T) after `idx` (B, T)."""
        x = norm(self.wte(idx))
        gate = self.smear_scale * torch.sigmoid(self.smear_gate(x[:, 1:, :SMEAR_CHANNELS]))  # (B, T - 1, 1)
        x = torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        start = x
        for layer, block in enumerate(self.blocks):
            x = self.residual_scale[layer] * x + self.input_scale[layer] * start
            values = self.value_embeds[str(layer)](idx) if self.has_values[layer] else None
            x = block(x, values, cos, sin, self.mask if self.is_short[layer] else None)
            if layer == len(self.blocks) // 2:
                middle = x
        x = norm(x - self.backout_scale * middle)
        logits = self.lm_head(x).float()  # (B, T, V)
        logits = LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def adamw(model: nn.Module, lr: float = 3e-4, weight_decay: float = 0.1) -> torch.optim.AdamW:
    """Return the optimizer, with decay on the matrices only."""
    matrices = [parameter for name, parameter in model.named_parameters() if name.startswith("blocks.")]
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("blocks.")]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
