"""Cross-entropy of next tokens, without the full logits.

`IGNORED` targets cost nothing. The sum, not the mean, is returned: whoever trains divides by the trained tokens of all
micro-batches and ranks, so that a micro-batch without any gives zero and never NaN.

The rows of logits are worked through in pieces (16 MiB at V = 32,768 on a CPU), and the gradient of each is computed
beside its loss: with z = h·Uᵀ, t = tanh(z/15) and p = softmax(15·t), d loss/dz = (p − onehot)·(1 − t²).
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nanochat_core.model.gpt import GPT, LOGIT_CAP
from nanochat_core.model.memory import LOGIT_ROWS_CPU, LOGIT_ROWS_CUDA

IGNORED = -1
Kernel = Callable[..., Tensor]


def token_nll(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """Return −log p of each target after `idx` (both (B, T)) in nats, float32 (B, T); 0 where IGNORED.

    For measuring: where gradients are wanted, they keep the logits of all rows; `loss_sum` does not.
    """
    return nll_after(model, model.hidden(idx), targets)


def nll_after(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the same, of targets (B, T) after tokens whose residual stream ends as `hidden` (B, T, C)."""
    wanted = targets.flatten()
    rows = _piece_rows(hidden.device)
    pieces = [
        cross_entropy(model.logits(piece), piece_targets, ignore_index=IGNORED, reduction="none")
        for piece, piece_targets in zip(hidden.flatten(0, 1).split(rows), wanted.split(rows), strict=True)
    ]
    return torch.cat(pieces).view_as(targets)


def loss_sum(model: GPT, idx: Tensor, targets: Tensor, factors: Tensor | None = None) -> Tensor:
    """Return the summed loss in nats (float32 scalar) of `targets` (B, T) after `idx` (B, T).

    `factors` (B,), float32: what the losses of each row are multiplied by.
    """
    return head_loss(model.hidden(idx), model.lm_head.weight, targets, model.vocab_size, factors)


@torch.compiler.disable
def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, factors: Tensor | None = None) -> Tensor:
    """Return the summed loss in nats of `targets` (B, T) given `hidden` (B, T, C) and the head's weight (≥ V, C)."""
    each = (targets != IGNORED).float() * (1.0 if factors is None else factors[:, None])  # (B, T)
    return _HeadLoss.apply(hidden.flatten(0, 1), head, targets.flatten(), each.flatten()[:, None], vocab_size)


def _piece_rows(device: torch.device) -> int:
    return LOGIT_ROWS_CPU if device.type == "cpu" else LOGIT_ROWS_CUDA


class _HeadLoss(torch.autograd.Function):
    """Head, soft cap and cross-entropy in one; the gradients of a loss of one nat are ready after the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, factors: Tensor, vocab_size: int) -> Tensor:
        weight = head.detach()[:vocab_size].to(hidden.dtype)
        gradients = Gradients.like(hidden, head, vocab_size) if any(ctx.needs_input_grad[:2]) else None
        rows = min(_piece_rows(hidden.device), len(hidden))
        kernel = _kernel_of(hidden.device)
        buffers = torch.empty(0 if kernel else 2, rows, vocab_size, device=hidden.device)
        total = torch.zeros((), device=hidden.device)
        for first in range(0, len(hidden), rows):
            piece = Piece(*(x[first : first + rows] for x in (hidden.detach(), targets, factors)), first)
            if kernel:
                total += _loss_by_kernel(kernel, piece, weight, gradients)
            else:
                total += _loss_by_torch(piece, weight, buffers, gradients)
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden, gradients.head)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Scale the gradients in place: they are used once."""
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden.mul_(d_total.to(d_hidden.dtype)), d_head.mul_(d_total), None, None, None


class Piece(NamedTuple):
    """Some rows: hidden (n, C), targets (n,), the factors of their losses (n, 1), and the number of the first."""

    hidden: Tensor
    targets: Tensor
    factors: Tensor
    first: int


@dataclass(frozen=True)
class Gradients:
    """Where the gradients of the head's input (n, C) and of its weight (≥ V, C) are put together."""

    hidden: Tensor
    head: Tensor
    vocab_size: int

    @classmethod
    def like(cls, hidden: Tensor, head: Tensor, vocab_size: int) -> "Gradients":
        found = cls(torch.empty_like(hidden), torch.empty_like(head), vocab_size)
        found.head[vocab_size:].zero_()
        return found

    def add(self, piece: Piece, weight: Tensor, d_logits: Tensor, row_factors: Tensor) -> None:
        """Take in a piece whose gradient with respect to the logits is `d_logits` (n, V) times `row_factors` (n, 1)."""
        hidden, first = piece.hidden, piece.first
        d_logits = d_logits.to(weight.dtype)
        torch.mm(d_logits, weight, out=self.hidden[first : first + len(hidden)]).mul_(row_factors)
        scaled, head = (hidden * row_factors).to(hidden.dtype), self.head[: self.vocab_size]
        if head.dtype == weight.dtype:
            torch.addmm(head, d_logits.T, scaled, beta=0 if first == 0 else 1, out=head)
        elif first == 0:
            head.copy_(torch.mm(d_logits.T, scaled))
        else:
            head.add_(torch.mm(d_logits.T, scaled))


def _loss_by_torch(piece: Piece, weight: Tensor, buffers: Tensor, gradients: Gradients | None) -> Tensor:
    """Return the loss of a piece, summed; add what it gives to the gradients. `buffers` are (2, ≥ n, V).

    15·t is at most 15, so that exp needs no maximum taken away first. The gradient is left undivided by Σp until the
    products, which are far smaller.
    """
    capped, p = buffers[:, : len(piece.hidden)]
    _matmul(piece.hidden * (1 / LOGIT_CAP), weight.T, capped)
    capped.tanh_().mul_(LOGIT_CAP)
    wanted = piece.targets.clamp(min=0)[:, None]
    of_target = capped.gather(1, wanted)
    sums = torch.exp(capped, out=p).sum(dim=1, keepdim=True)
    if gradients is not None:
        p.addcmul_(p, capped.square_(), value=-1 / LOGIT_CAP**2)
        p.scatter_add_(1, wanted, (of_target.square() / LOGIT_CAP**2 - 1) * sums)
        gradients.add(piece, weight, p, piece.factors / sums)
    return ((sums.log() - of_target) * piece.factors).sum()


def _loss_by_kernel(kernel: Kernel, piece: Piece, weight: Tensor, gradients: Gradients | None) -> Tensor:
    """Return the same, the logits (n, V) turned into their gradient by a Triton kernel."""
    logits = torch.mm(piece.hidden, weight.T)
    losses = kernel(logits, piece.targets, LOGIT_CAP, ignored=IGNORED)
    if gradients is not None:
        gradients.add(piece, weight, logits, piece.factors)
    return (losses * piece.factors[:, 0]).sum()


@lru_cache
def _kernel_of(device: torch.device) -> Kernel | None:
    """Return the Triton kernel (model/triton_loss.py), or None where there is no CUDA device or no triton."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from nanochat_core.model.triton_loss import softcap_cross_entropy_

    return softcap_cross_entropy_


def _matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a·b into `out`, whatever its dtype."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(torch.mm(a, b))
