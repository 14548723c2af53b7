"""Rates and momentum as pure functions of the step."""

from nanochat_core.specs import OptimizerSpec

MOMENTUM_START, MOMENTUM_END, MOMENTUM_STEPS = 0.85, 0.95, 300


def rate_multiplier(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Return the share of the full rate at `step` of 0 … steps-1: a linear rise, 1, a linear fall to `final_lr_ratio`.

    >>> [round(rate_multiplier(OptimizerSpec(warmdown_ratio=0.5), step, 4), 2) for step in range(4)]
    [1.0, 1.0, 1.0, 0.5]
    """
    warmup, warmdown = round(spec.warmup_ratio * steps), round(spec.warmdown_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    if step < steps - warmdown or warmdown == 0:
        return 1.0
    remaining = (steps - step) / warmdown
    return remaining + (1 - remaining) * spec.final_lr_ratio


def muon_momentum(step: int) -> float:
    """Return Muon's momentum: linear from .85 to .95 over 300 steps."""
    share = min(step / MOMENTUM_STEPS, 1.0)
    return MOMENTUM_START + share * (MOMENTUM_END - MOMENTUM_START)
