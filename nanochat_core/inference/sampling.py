"""The next tokens from logits. Randomness is the caller's uniform numbers, so that equal seeds give equal text whatever
else is in the batch.

B rows, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanochat_core.inference.requests import Sampling

FIRST_CANDIDATES = 256  # top-p seldom keeps more tokens than this; where it does, all are sorted


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
    """Return a token id for each row of the logits (B, V), float32; rows that have penalties or biases are changed."""
    for row, draw in zip(logits, draws, strict=True):
        _penalise(row, draw)
    greedy = logits.argmax(dim=-1).tolist()
    warm = [place for place, draw in enumerate(draws) if draw.sampling.temperature > 0]
    chosen = dict(_sampled(logits, draws, warm)) if warm else {}
    return [chosen.get(place, token) for place, token in enumerate(greedy)]


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


def _sampled(logits: Tensor, draws: Sequence[Draw], warm: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (row, token) for the rows that are sampled: those that need their likeliest tokens in order apart."""
    vocab_size = logits.size(-1)

    def needs_order(sampling: Sampling) -> bool:
        return sampling.top_p < 1 or (sampling.top_k is not None and sampling.top_k < vocab_size)

    ordered = [row for row in warm if needs_order(draws[row].sampling)]
    free = [row for row in warm if not needs_order(draws[row].sampling)]
    if free:
        yield from zip(free, _from_all(logits, [draws[row] for row in free], free), strict=True)
    if ordered:
        yield from zip(ordered, _from_likeliest(logits, [draws[row] for row in ordered], ordered), strict=True)


def _column(values: Sequence[float], logits: Tensor) -> Tensor:
    return torch.tensor(values, device=logits.device, dtype=torch.float32)[:, None]


def _uniform(draws: Sequence[Draw], logits: Tensor) -> Tensor:
    return torch.tensor([draw.uniform for draw in draws], device=logits.device, dtype=torch.float64)[:, None]


def _scaled(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> Tensor:
    chosen = logits if len(rows) == len(logits) else logits[torch.tensor(rows, device=logits.device)]
    return chosen / _column([draw.sampling.temperature for draw in draws], logits)


def _from_all(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> list[int]:
    """Sample in the order of the ids: no sorting. min_p needs none either."""
    probabilities = torch.softmax(_scaled(logits, draws, rows), dim=-1)
    if any(draw.sampling.min_p > 0 for draw in draws):
        floor = probabilities.amax(dim=-1, keepdim=True) * _column([draw.sampling.min_p for draw in draws], logits)
        probabilities = probabilities.masked_fill(probabilities < floor, 0)
    return _inverse(probabilities, _uniform(draws, logits)).tolist()


def _from_likeliest(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> list[int]:
    """Sample among the likeliest tokens: top-k, of these top-p, of these min-p."""
    scaled = _scaled(logits, draws, rows)
    vocab_size = logits.size(-1)
    widest = [min(draw.sampling.top_k or vocab_size, vocab_size) for draw in draws]
    candidates = min(vocab_size, max(max((k for k in widest if k < vocab_size), default=1), FIRST_CANDIDATES))
    tokens = _choose_likeliest(scaled, draws, widest, candidates)
    missing = [place for place, token in enumerate(tokens) if token < 0]
    if missing:
        again = scaled[torch.tensor(missing, device=scaled.device)]
        found = _choose_likeliest(
            again, [draws[place] for place in missing], [widest[place] for place in missing], vocab_size
        )
        for place, token in zip(missing, found, strict=True):
            tokens[place] = token
    return tokens


def _choose_likeliest(scaled: Tensor, draws: Sequence[Draw], widest: Sequence[int], candidates: int) -> list[int]:
    """Return a token for each row, or −1 where so few `candidates` do not hold all that top-p keeps."""
    values, ids = scaled.topk(candidates, dim=-1)  # (B, n), likeliest first
    place = torch.arange(candidates, device=scaled.device)
    within = place < torch.tensor(widest, device=scaled.device)[:, None]
    exponentials = torch.exp(values - values[:, :1]).masked_fill(~within, 0)
    is_cut = _column([float(k <= candidates) for k in widest], scaled) > 0  # top-k ends among the candidates
    everything = torch.exp(scaled - values[:, :1]).sum(dim=-1, keepdim=True)
    total = torch.where(is_cut, exponentials.sum(dim=-1, keepdim=True), everything)
    probabilities = exponentials / total
    top_p = _column([draw.sampling.top_p for draw in draws], scaled)
    above = probabilities.cumsum(dim=-1) - probabilities  # the mass of the tokens before each
    is_short = ~is_cut & (probabilities.sum(dim=-1, keepdim=True) < top_p)
    kept = probabilities.masked_fill(above >= top_p, 0)
    floor = probabilities[:, :1] * _column([draw.sampling.min_p for draw in draws], scaled)
    kept = kept.masked_fill(kept < floor, 0)
    chosen = _inverse(kept, _uniform(draws, scaled))
    found = ids.gather(1, chosen[:, None])[:, 0]
    return torch.where(is_short[:, 0], -1, found).tolist()


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return for each row the place where the running sum of its weights (B, n) passes its uniform number (B, 1)."""
    running = weights.double().cumsum(dim=-1)
    total = running[:, -1:]
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(running, threshold, right=True)[:, 0]
