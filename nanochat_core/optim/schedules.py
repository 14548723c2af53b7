"""Rates, momentum and decay as pure functions of the step."""

import math

from nanochat_core.specs import OptimizerSpec

MOMENTUM_START = 0.85


def rate_multiplier(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Return the share of the full rate at `step` of 0 … steps-1: a linear rise, 1, a linear fall to `final_lr_ratio`.

    >>> [round(rate_multiplier(OptimizerSpec(warmdown_ratio=0.5), step, 4), 2) for step in range(4)]
    [1.0, 1.0, 1.0, 0.5]
    """
    if step < spec.warmup_steps:
        return (step + 1) / spec.warmup_steps
    warmdown = round(spec.warmdown_ratio * steps)
    if step < steps - warmdown or warmdown == 0:
        return 1.0
    remaining = (steps - step) / warmdown
    return remaining + (1 - remaining) * spec.final_lr_ratio


def muon_momentum(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Return Muon's momentum: linear from .85 to its peak, and, as the rate falls, linear to `momentum_final`.

    >>> [round(muon_momentum(OptimizerSpec(), step, 1000), 3) for step in (0, 150, 300, 999)]
    [0.85, 0.9, 0.95, 0.95]
    """
    if step < spec.momentum_steps:
        return MOMENTUM_START + step / spec.momentum_steps * (spec.momentum_peak - MOMENTUM_START)
    warmdown = round(spec.warmdown_ratio * steps)
    if spec.momentum_final is None or warmdown == 0 or step < steps - warmdown:
        return spec.momentum_peak
    share = (step - (steps - warmdown)) / warmdown
    return spec.momentum_peak + share * (spec.momentum_final - spec.momentum_peak)


def muon_decay(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Return Muon's decay λ: half a cosine from `weight_decay` to 0.

    >>> [round(muon_decay(OptimizerSpec(weight_decay=0.28), step, 4), 2) for step in range(4)]
    [0.28, 0.24, 0.14, 0.04]
    """
    return (spec.weight_decay or 0.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
