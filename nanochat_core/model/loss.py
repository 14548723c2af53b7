"""Cross-entropy of next tokens, without the full logits.

`IGNORED` targets cost nothing. The sum, not the mean, is returned: whoever trains divides by the trained tokens of all
micro-batches and ranks, so that a micro-batch without any gives zero and never NaN.

The rows of logits are worked through in pieces that fit a cache, and each piece's gradient is computed beside its loss:
with z = h·Uᵀ, t = tanh(z/15) and p = softmax(15·t), d loss/dz = (p − onehot)·(1 − t²). No piece outlives its turn.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat_core.model.gpt import GPT, LOGIT_CAP

IGNORED = -1
CPU_ROWS, GPU_ROWS = 64, 8192  # rows of logits at a time: 8 MiB of float32 at V = 32,768 on a CPU


def token_nll(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """Return −log p of each target after `idx` (both (B, T)) in nats, float32 (B, T); 0 where IGNORED."""
    hidden = model.hidden(idx).flatten(0, 1)
    pieces = [
        _row_nll(model, rows, wanted)
        for rows, wanted in zip(_split(hidden), _split(targets.flatten(), like=hidden), strict=True)
    ]
    return torch.cat(pieces).view_as(targets)


def _row_nll(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(model.logits(hidden), targets, ignore_index=IGNORED, reduction="none")


def loss_sum(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """Return the summed loss in nats (float32 scalar) of `targets` (B, T) after `idx` (B, T)."""
    return head_loss(model.hidden(idx), model.lm_head.weight, targets, model.vocab_size)


@torch.compiler.disable
def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Return the summed loss in nats of `targets` (B, T) given `hidden` (B, T, C) and the head's weight (≥ V, C)."""
    return _HeadLoss.apply(hidden.flatten(0, 1), head, targets.flatten(), vocab_size)


def _split(rows: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    return rows.split(CPU_ROWS if (like if like is not None else rows).device.type == "cpu" else GPU_ROWS)


class _HeadLoss(torch.autograd.Function):
    """Head, soft cap and cross-entropy in one; the gradients of a loss of one nat are ready after the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
        weight = head.detach()[:vocab_size].to(hidden.dtype)
        wants_gradient = any(ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden) if wants_gradient else None
        d_head = torch.zeros_like(head) if wants_gradient else None
        total = torch.zeros((), device=hidden.device)
        first = 0
        for rows, wanted in zip(_split(hidden.detach()), _split(targets, like=hidden), strict=True):
            loss, d_logits = _piece(rows, weight, wanted, wants_gradient=wants_gradient)
            total += loss
            if d_logits is not None:
                d_logits = d_logits.to(rows.dtype)
                torch.mm(d_logits, weight, out=d_hidden[first : first + len(rows)])
                d_head[:vocab_size].addmm_(d_logits.T.to(d_head.dtype), rows.to(d_head.dtype))
            first += len(rows)
        if wants_gradient:
            ctx.save_for_backward(d_hidden, d_head)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden.mul_(d_total.to(d_hidden.dtype)), d_head.mul_(d_total), None, None


def _piece(hidden: Tensor, weight: Tensor, targets: Tensor, *, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Return the loss of some rows (n, C), summed, and its gradient with respect to the logits (n, V), float32.

    15·t is at most 15, so that exp needs no maximum taken away first.
    """
    capped = torch.mm(hidden, weight.T).float().mul_(1 / LOGIT_CAP).tanh_()  # t
    is_learned = targets != IGNORED
    wanted = targets.clamp(min=0)[:, None]
    of_target = LOGIT_CAP * capped.gather(1, wanted)[:, 0]
    p = torch.mul(capped, LOGIT_CAP).exp_()
    sums = p.sum(dim=1)
    loss = ((sums.log() - of_target) * is_learned).sum()
    if not wants_gradient:
        return loss, None
    p.mul_((is_learned / sums)[:, None])
    p.scatter_add_(1, wanted, -is_learned[:, None].to(p.dtype))
    return loss, p.addcmul_(p, capped.square_(), value=-1)
