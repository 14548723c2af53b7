"""isoFLOP curves: which size of model does best for a budget of FLOPs, and how that grows with the budget.

Approach 2 of Hoffmann et al. 2022: for each budget a parabola of the loss over log N, its lowest point N*, and then
power laws N* ~ C^a and D* ~ C^b through the budgets. Torch-free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from nanochat_core.errors import DataError
from nanochat_core.optim.scaling_laws import CONFIDENCE, Interval, Point

MIN_DEPTHS = 3  # a parabola has three coefficients
Edge = Literal["smallest", "largest", "none found"]


@dataclass(frozen=True)
class Parabola:
    """loss = c0 + c1·u + c2·u², where u = log(N / centre)."""

    c0: float
    c1: float
    c2: float
    centre: float

    def loss(self, parameters: float) -> float:
        u = math.log(parameters / self.centre)
        return self.c0 + self.c1 * u + self.c2 * u * u


@dataclass(frozen=True)
class Optimum:
    """The best size for one budget (FLOPs): N* parameters, D* tokens, and the loss there.

    Where `edge` is set, the runs do not enclose the best size: it may lie beyond the smallest or the largest model, or
    they lie in no valley at all ("none found"). N* is then that of the best run, and no law may be drawn through it.
    `misfit` is how far the parabola is from the runs at most, as a share of their loss: 0.01 is one per cent.
    """

    compute: float
    parameters: float
    tokens: float
    loss: float
    parabola: Parabola
    edge: Edge | None = None
    misfit: float = 0.0


@dataclass(frozen=True)
class PowerLaw:
    """y = factor · x^exponent. `interval` is the exponent's, None where two points leave no room for doubt.

    >>> PowerLaw(factor=2.0, exponent=0.5).at(100.0)
    20.0
    """

    factor: float
    exponent: float
    interval: Interval | None = None

    def at(self, x: float) -> float:
        return float(self.factor * x**self.exponent)


def find_optimum(points: Sequence[Point], compute: float) -> Optimum:
    """Return the best size among runs of one budget, `compute` FLOPs; D* is read off the runs' own log D over log N.

    Raises DataError for fewer than three sizes.
    """
    runs = sorted(points, key=lambda point: point.parameters)
    if len({point.parameters for point in runs}) < MIN_DEPTHS:
        raise DataError(
            f"The budget of {compute:.3g} FLOPs has {len(runs)} finished runs; a parabola needs {MIN_DEPTHS} sizes."
        )
    log_n, log_d = (np.log([getattr(run, name) for run in runs]) for name in ("parameters", "tokens"))
    centre = float(log_n.mean())
    c2, c1, c0 = (float(value) for value in np.polyfit(log_n - centre, [run.loss for run in runs], 2))
    parabola = Parabola(c0, c1, c2, math.exp(centre))
    best = min(runs, key=lambda run: run.loss)
    lowest = centre - c1 / (2 * c2) if c2 > 0 else math.inf
    edge = _edge(runs, best, lowest if log_n[0] <= lowest <= log_n[-1] else None)
    misfit = max(abs(parabola.loss(run.parameters) / run.loss - 1) for run in runs)
    if edge:
        return Optimum(compute, best.parameters, best.tokens, best.loss, parabola, edge, misfit)
    parameters = math.exp(lowest)
    tokens = math.exp(float(np.interp(lowest, log_n, log_d)))
    return Optimum(compute, parameters, tokens, parabola.loss(parameters), parabola, None, misfit)


def _edge(runs: Sequence[Point], best: Point, lowest: float | None) -> Edge | None:
    """Tell why the runs, in order of size, do not enclose the best one, or None where they do."""
    if best is runs[0]:
        return "smallest"
    if best is runs[-1]:
        return "largest"
    return "none found" if lowest is None else None


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Return the least-squares line through the logs; the interval is Student's, of the regression's slope.

    Raises DataError for fewer than two different x. Two give a line but no interval.

    >>> round(fit_power_law([1, 10, 100], [5, 50, 500]).exponent, 6)
    1.0
    """
    if len(set(x)) < 2:
        raise DataError(f"A power law needs two points or more, got {len(set(x))}.")
    line = stats.linregress(np.log(x), np.log(y))
    interval = None
    if len(x) > 2:
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * line.stderr)
        interval = Interval(float(line.slope) - reach, float(line.slope) + reach)
    return PowerLaw(float(np.exp(line.intercept)), float(line.slope), interval)
