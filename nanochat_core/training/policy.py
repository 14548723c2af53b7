"""What RL learns from answers: log p of the chosen tokens, weighted by how much better the answer was than its peers.

    rows (ids, mask, advantage) -> one line -> model -> states of the chosen tokens only -> Σ −advantage · log p(token)

What neighbouring rows begin with, the question, is computed once (`model/shared_rows.py`).

The log-probabilities are those of the distribution that the tokens were drawn from. With z = h·Uᵀ, t = tanh(z/15),
s = 15·t/temperature and p = softmax of s over the top_k likeliest tokens, the gradient of −log p(token) with respect
to z is (p − onehot)·(1 − t²)/temperature, and nothing for the tokens that are left out. It is computed beside the
loss, some states at a time: the logits of a batch are never all there.

n chosen tokens, C width, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.inference.prefixes import common_prefix
from nanochat_core.model.gpt import GPT, LOGIT_CAP
from nanochat_core.model.memory import LOGIT_ROWS_CPU, LOGIT_ROWS_CUDA
from nanochat_core.model.shared_rows import SharedRows

LARGEST_EXP = 60.0  # exp of more, summed over a vocabulary, may leave float32


class PolicyRow(NamedTuple):
    """An answer with its prompt in front, as ids; `mask` is 1 on the tokens that are learned.

    `draw_logprobs`: with which log-probability the sampler drew each id; empty where that is not known.
    """

    ids: Sequence[int]
    mask: Sequence[int]
    advantage: float
    draw_logprobs: Sequence[float] = ()


@dataclass(frozen=True)
class Distribution:
    """How tokens are drawn from logits: the softmax of logits / temperature, of the `top_k` likeliest (None: all)."""

    temperature: float = 1.0
    top_k: int | None = None


class PolicyTerms(NamedTuple):
    """The loss of some rows (scalar, with its gradient), and log p, entropy and draw's log p of chosen tokens (n,).

    `drawn` is NaN where the sampler's is not known.
    """

    loss: Tensor
    logprobs: Tensor
    entropies: Tensor
    drawn: Tensor


def policy_loss(model: GPT, rows: Sequence[PolicyRow], distribution: Distribution = Distribution()) -> Tensor:
    """Return Σ −advantage · log p(token) over the chosen tokens of the rows, a float32 scalar."""
    return policy_terms(model, rows, distribution).loss


def policy_terms(model: GPT, rows: Sequence[PolicyRow], distribution: Distribution = Distribution()) -> PolicyTerms:
    """Return the loss of the rows, and what was found out about their chosen tokens, in the order of the rows."""
    ids = [np.array(row.ids, dtype=np.int64) for row in rows]
    chosen = [np.flatnonzero(row.mask[1:]) + 1 for row in rows]  # of each row, where its learned tokens are
    inputs = [row[:-1] for row in ids]
    shared = [0, *(common_prefix(before, row) for before, row in pairwise(inputs))]
    line = SharedRows.of(inputs, shared, model.device)
    hidden = model.hidden(line.ids, line)[0]  # (N, C)

    def of_chosen(values: Iterable[np.ndarray], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.concatenate(list(values))).to(model.device, dtype)

    places = of_chosen((path[own - 1] for path, own in zip(line.paths, chosen, strict=True)), torch.int64)
    targets = of_chosen((row[own] for row, own in zip(ids, chosen, strict=True)), torch.int64)
    advantages = of_chosen(
        (np.full(len(own), row.advantage) for row, own in zip(rows, chosen, strict=True)), torch.float32
    )
    drawn = of_chosen((_drawn_logprobs(row)[own] for row, own in zip(rows, chosen, strict=True)), torch.float32)
    states = F.embedding(places, hidden)  # (n, C)
    loss, logprobs, entropies = _PolicyHead.apply(
        states, model.lm_head.weight, targets, advantages, (model.vocab_size, distribution)
    )
    return PolicyTerms(loss, logprobs, entropies, drawn)


def _drawn_logprobs(row: PolicyRow) -> np.ndarray:
    """Return the log-probability with which each id of the row was drawn, NaN where that is not known."""
    return np.array(row.draw_logprobs) if row.draw_logprobs else np.full(len(row.ids), np.nan)


class _PolicyHead(torch.autograd.Function):
    """Head, soft cap and log-probabilities in one; the gradients of the loss are ready after the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: Tensor, targets: Tensor, advantages: Tensor, how: tuple[int, Distribution]
    ) -> tuple[Tensor, Tensor, Tensor]:
        vocab_size, distribution = how
        weight = head.detach()[:vocab_size].to(states.dtype)
        d_states, d_head = torch.zeros_like(states), torch.zeros_like(head)
        logprobs, entropies = (torch.zeros(len(states), device=states.device) for _ in range(2))
        rows = LOGIT_ROWS_CPU if states.device.type == "cpu" else LOGIT_ROWS_CUDA
        for first in range(0, len(states), rows):
            here = slice(first, first + rows)
            own = states.detach()[here]
            z = torch.addmm(own.new_zeros(()), own, weight.T, beta=0, alpha=1 / LOGIT_CAP)
            slope, factors, logprobs[here], entropies[here] = _drawn(z, targets[here], advantages[here], distribution)
            slope = slope.to(weight.dtype)
            torch.mul(slope @ weight, factors, out=d_states[here])
            weighted = (own * factors).to(weight.dtype)
            if d_head.dtype == weight.dtype:
                d_head[:vocab_size].addmm_(slope.T, weighted)
            else:
                d_head[:vocab_size] += slope.T @ weighted
        ctx.save_for_backward(d_states, d_head)
        ctx.mark_non_differentiable(logprobs, entropies)
        return -(logprobs * advantages).sum(), logprobs, entropies

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Scale the gradients in place: they are used once."""
        d_states, d_head = ctx.saved_tensors
        return d_states.mul_(d_loss.to(d_states.dtype)), d_head.mul_(d_loss), None, None, None


def _drawn(
    z: Tensor, targets: Tensor, advantages: Tensor, distribution: Distribution
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, of raw logits / 15 (n, V): a slope (n, V) and a factor (n, 1), whose product is the gradient of
    −advantage · log p(target) with respect to the raw logits, and log p(target) and the entropy (n,).

    A target that this pass ranks behind the top_k, by rounding, is counted with them.
    """
    tanh, gain = z.float().tanh_(), LOGIT_CAP / distribution.temperature
    p, wanted = tanh * gain, targets[:, None]
    highest = p.amax(dim=1, keepdim=True) if gain > LARGEST_EXP else p.new_zeros(())  # else exp needs none taken away
    if gain > LARGEST_EXP:
        p -= highest
    chosen = p.gather(1, wanted)
    if distribution.top_k is not None and distribution.top_k < p.size(1):
        is_left_out = p < p.topk(distribution.top_k, dim=1).values[:, -1:]
        p.masked_fill_(is_left_out.scatter_(1, wanted, False), -torch.inf)
    p.exp_()
    total = p.sum(dim=1, keepdim=True)
    mean = gain * torch.linalg.vecdot(p, tanh)[:, None] / total - highest  # of what p is the exponential of
    entropies, logprobs = total.log() - mean, chosen - total.log()
    p.scatter_add_(1, wanted, -total)
    slope = torch.ops.aten.tanh_backward(p, tanh)  # p · (1 − tanh²)
    return slope, advantages[:, None] / (distribution.temperature * total), logprobs[:, 0], entropies[:, 0]


def discrepancy(logprobs: Tensor, drawn: Tensor) -> Tensor:
    """Return an estimate of KL(sampling ‖ training) from each drawn token's log-probability in both: never negative.

    With r = p_training / p_sampling, r − 1 − log r has the expectation of −log r and less noise (Schulman 2020,
    "Approximating KL divergence").
    """
    log_ratio = logprobs - drawn
    return torch.expm1(log_ratio) - log_ratio
