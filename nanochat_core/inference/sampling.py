"""The next tokens from logits. Randomness is the caller's uniform numbers, so that equal seeds give equal text whatever
else is in the batch.

B rows, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanochat_core.inference.requests import Sampling

LEAST_TEMPERATURE = 1e-6  # below it the likeliest token is taken: logits divided by less leave float32
TINY = 1e-300  # a probability that keeps everything
BLOCK = 128  # weights that are summed before a place is looked for
FEW = 256  # values that are found faster than all are sorted


def uniform_numbers(seed: int, sample: int) -> np.random.Generator:
    """Return the source of the numbers in [0, 1) that belong to one sample of one request."""
    return np.random.default_rng([seed & 0xFFFF_FFFF_FFFF_FFFF, sample])


@dataclass(frozen=True)
class Draw:
    """What one row's next token depends on besides its logits. `counts`: how often the answer has each token so far."""

    sampling: Sampling
    uniform: float = 0.0
    counts: Mapping[int, int] | None = None


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Return a token id for each row of the logits (B, V), float32, which are used up."""
    return choose_with_logprobs(logits, draws)[0]


def choose_with_logprobs(logits: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
    """Return the same and, where a row's sampling asks for it, the log-probability of its draw, else 0."""
    for place, draw in enumerate(draws):
        if draw.counts or draw.sampling.logit_bias:
            _penalise(logits[place], draw)
    warm = [place for place, draw in enumerate(draws) if draw.sampling.temperature >= LEAST_TEMPERATURE]
    if len(warm) == len(draws):
        return _sampled(logits, draws)
    greedy, _ = likeliest(logits)
    logprobs = [0.0] * len(draws)
    if not warm:
        return greedy, logprobs
    tokens, found = _sampled(logits[torch.tensor(warm, device=logits.device)], [draws[place] for place in warm])
    for place, token, logprob in zip(warm, tokens, found, strict=True):
        greedy[place], logprobs[place] = token, logprob
    return greedy, logprobs


def likeliest(logits: Tensor) -> tuple[list[int], list[float]]:
    """Return the best id of each row (B, V) and its logit: of a row with a NaN, that. On a CPU NumPy is the faster."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        array = logits.numpy()
        ids = array.argmax(axis=-1)
        return ids.tolist(), array[np.arange(len(ids)), ids].tolist()
    best, found = logits.max(dim=-1)
    return found.tolist(), best.tolist()


def _penalise(logits: Tensor, draw: Draw) -> None:
    """Change one row's logits (V,) as OpenAI's API says: bias, and penalties for what was said before."""
    sampling = draw.sampling
    if sampling.logit_bias:
        ids = torch.tensor(list(sampling.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(sampling.logit_bias.values()), device=logits.device, dtype=logits.dtype)
    if draw.counts and (sampling.frequency_penalty or sampling.presence_penalty):
        ids = torch.tensor(list(draw.counts), device=logits.device)
        counts = torch.tensor(list(draw.counts.values()), device=logits.device, dtype=logits.dtype)
        logits[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty


def _sampled(logits: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
    """Return a token for each row of the logits (B, V), among those whose logit reaches the row's floor, and its draw's
    log-probability (0 where nobody asks)."""
    scaled = logits.div_(_column([draw.sampling.temperature for draw in draws], logits))
    best = scaled.amax(dim=-1, keepdim=True)
    if any(draw.sampling.min_p or draw.sampling.top_k or draw.sampling.top_p < 1 for draw in draws):
        scaled.masked_fill_(scaled < _floor(scaled, best, draws), -math.inf)
    weights = scaled.sub_(best).exp_()
    uniform = torch.tensor([draw.uniform for draw in draws], device=logits.device, dtype=torch.float64)
    chosen = _inverse(weights, uniform[:, None])
    if not any(draw.sampling.draw_logprobs for draw in draws):
        return chosen.tolist(), [0.0] * len(draws)
    shares = weights.gather(1, chosen[:, None])[:, 0] / weights.sum(dim=-1)
    return chosen.tolist(), shares.log_().tolist()


def _floor(scaled: Tensor, best: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return for each row (B, V), whose greatest is `best` (B, 1), the least logit that may be drawn: (B, 1)."""
    floor = best + _column([math.log(draw.sampling.min_p or TINY) for draw in draws], scaled)
    ordered = [place for place, draw in enumerate(draws) if draw.sampling.top_k or draw.sampling.top_p < 1]
    if ordered:
        index = torch.tensor(ordered, device=scaled.device)
        rows = scaled if len(ordered) == len(draws) else scaled[index]
        lowest = _lowest_kept(rows, [draws[place].sampling for place in ordered])
        floor[index] = torch.maximum(floor[index], lowest)
    return floor


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float32)[:, None]


def _lowest_kept(scaled: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Return for each row (B, V) the least logit that top-k, and of what it leaves top-p, keeps: (B, 1)."""
    vocab_size = scaled.size(-1)
    widest = [min(sampling.top_k or vocab_size, vocab_size) for sampling in samplings]
    values = _descending(scaled, max(widest))  # (B, n)
    last = torch.tensor(widest, device=scaled.device)[:, None] - 1  # the place of the least one kept
    if any(sampling.top_p < 1 for sampling in samplings):
        weights = torch.exp(values - values[:, :1]).double()
        weights.masked_fill_(torch.arange(values.size(-1), device=scaled.device) > last, 0)
        before = weights.cumsum(dim=-1) - weights  # the weight of the likelier tokens
        enough = _column([sampling.top_p for sampling in samplings], scaled) * weights.sum(dim=-1, keepdim=True)
        last = torch.minimum(last, (before < enough).sum(dim=-1, keepdim=True) - 1)
    return values.gather(1, last)


def _descending(scaled: Tensor, count: int) -> Tensor:
    """Return the `count` greatest values of each row (B, V), the greatest first. On a CPU NumPy sorts the fastest."""
    if count <= FEW or scaled.device.type != "cpu":
        return scaled.topk(count, dim=-1).values
    return torch.from_numpy(np.sort(scaled.numpy(), axis=-1)[:, ::-1][:, :count].copy())


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return for each row the place where the running sum of its weights (B, V) passes its uniform number (B, 1).

    The place is looked for among the sums of blocks first, and then in one block: most weights are read once.
    """
    rows, size = weights.shape
    whole = size // BLOCK * BLOCK
    sums = torch.cat([weights[:, :whole].view(rows, -1, BLOCK).sum(-1), weights[:, whole:].sum(-1, keepdim=True)], 1)
    running = sums.double().cumsum(dim=-1)
    block = _passed(running, uniform * running[:, -1:])  # (B, 1)
    before = running.gather(1, block) - sums.gather(1, block)
    places = block * BLOCK + torch.arange(BLOCK, device=weights.device)  # (B, BLOCK)
    inside = weights.gather(1, places.clamp(max=size - 1)).masked_fill_(places >= size, 0).double().cumsum(dim=-1)
    found = _passed(inside, (uniform * running[:, -1:] - before).clamp_(min=0))
    return places.gather(1, found)[:, 0]


def _passed(running: Tensor, threshold: Tensor) -> Tensor:
    """Return the first place of each row (B, n) that is above its threshold (B, 1), at most where the sum is whole."""
    total = running[:, -1:]
    below = torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(running, below, right=True)
