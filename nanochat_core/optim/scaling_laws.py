"""How the loss falls with parameters and tokens: the joint law L(N, D) = E + A/N^alpha + B/D^beta, fitted to runs.

N is the number of parameters, D of training tokens, C the training FLOPs; L is in any unit (bits per byte in a sweep),
and E, A and B are in that of L. The objective is that of approach 3 in Hoffmann et al. 2022 ("Training Compute-Optimal
Large Language Models"): the Huber loss of log L against the log of the law. Torch-free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares, nnls

from nanochat_core.errors import DataError

Array = NDArray[np.float64]
HUBER_DELTA = 1e-3  # of log L, as in the paper: beyond a tenth of a per cent a point counts less
CONFIDENCE = 0.95
MIN_POINTS = 6  # one more than the law has constants
MIN_VALUES = 3  # different N, and different D
EXPONENTS = np.geomspace(0.05, 2.0, 14)  # of the grid of starts, for alpha and for beta
MAX_EXPONENT = 5.0
POLISHED_STARTS = 6
TINY = 1e-9  # the least share of the smallest loss that a term of the law may be
CONSTANTS = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class Point:
    """One finished training: FLOPs, parameters, tokens, and the loss that it ended with."""

    compute: float
    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class JointLaw:
    """L(N, D) = E + A/N^alpha + B/D^beta. E is what no model and no amount of data takes away.

    >>> JointLaw(E=1.5, A=100.0, B=100.0, alpha=0.5, beta=0.5).loss(1e4, 1e4)
    3.5
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)

    @property
    def parameter_exponent(self) -> float:
        """a of N ~ C^a at the least loss for C = 6·N·D: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def token_exponent(self) -> float:
        """b of D ~ C^b at the least loss for C = 6·N·D: alpha / (alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)


@dataclass(frozen=True)
class JointFit:
    """A fitted law, the interval of each constant and exponent, and how far it is from the points.

    `error` is the root of the mean square of log L minus the law's: 0.01 is one per cent. `undetermined` says, in
    words, which constants the points do not determine; empty where they determine all.
    """

    law: JointLaw
    intervals: dict[str, Interval]
    error: float
    undetermined: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Data:
    """Logs of N and D around their means (which keeps the constants apart), and log L."""

    x: Array
    y: Array
    log_loss: Array
    x_mean: float
    y_mean: float

    @classmethod
    def of(cls, points: Sequence[Point]) -> "_Data":
        x = np.log([point.parameters for point in points])
        y = np.log([point.tokens for point in points])
        means = float(x.mean()), float(y.mean())
        return cls(x - means[0], y - means[1], np.log([point.loss for point in points]), *means)

    def law(self, theta: Array) -> JointLaw:
        e, a, b, alpha, beta = (float(value) for value in theta)
        return JointLaw(
            E=math.exp(e),
            A=math.exp(a + alpha * self.x_mean),
            B=math.exp(b + beta * self.y_mean),
            alpha=alpha,
            beta=beta,
        )

    def terms(self, theta: Array) -> Array:
        """Return the logs of the law's three terms at each point, 3 x points."""
        e, a, b, alpha, beta = theta
        return np.stack([np.full_like(self.x, e), a - alpha * self.x, b - beta * self.y])

    def log_law(self, theta: Array) -> Array:
        total: Array = np.logaddexp.reduce(self.terms(theta), axis=0)
        return total

    def slopes(self, theta: Array) -> Array:
        """Return the derivatives of `log_law`, points x 5: each term's share of the loss, times its own derivative."""
        shares = np.exp(self.terms(theta) - self.log_law(theta))
        return np.stack([*shares, -self.x * shares[1], -self.y * shares[2]], axis=1)

    @property
    def bounds(self) -> tuple[Array, Array]:
        low, high = float(self.log_loss.min()), float(self.log_loss.max())
        floor = low + math.log(TINY)
        return np.array([floor, floor, floor, 1e-3, 1e-3]), np.array([low, high, high, MAX_EXPONENT, MAX_EXPONENT])


def fit_joint_law(points: Sequence[Point], *, resamples: int = 200, seed: int = 0) -> JointFit:
    """Return the law that fits the points best, with 95 % intervals.

    The Huber loss is minimised by SciPy's trust-region least squares, which reaches the bottom where L-BFGS stops short
    of it, from the best starts of a grid over the exponents; for given exponents the law is linear in E, A and B, and
    those start from a non-negative least squares. The intervals are percentiles over `resamples` refits to the law plus
    residuals drawn with replacement (the points are a design, not a sample: drawing points would lose its corners).

    Raises DataError where the points cannot determine five constants, or are no positive finite numbers.
    """
    check_points(points)
    data = _Data.of(points)
    starts = _starts(data)
    theta = _best_of(data, starts[:POLISHED_STARTS])
    fitted = data.log_law(theta)
    residuals = data.log_loss - fitted
    freedom = len(points) - len(CONSTANTS)
    scaled = (residuals - residuals.mean()) * math.sqrt(len(points) / freedom)
    generator = np.random.default_rng(seed)
    laws = []
    for _ in range(resamples):
        log_loss = fitted + generator.choice(scaled, len(points))
        again = _Data(data.x, data.y, log_loss, data.x_mean, data.y_mean)
        laws.append(again.law(_best_of(again, [theta, starts[0]])))
    return JointFit(
        law=data.law(theta),
        intervals=_intervals(laws),
        error=float(np.sqrt((residuals**2).mean())),
        undetermined=_undetermined(data, theta),
    )


def check_points(points: Sequence[Point]) -> None:
    """Raise DataError where the points are too few, or too alike, for the joint law."""
    bad = [point for point in points if not all(math.isfinite(v) and v > 0 for v in vars(point).values())]
    if bad:
        raise DataError(f"Scaling laws need positive finite numbers, got {bad[0]}.")
    if len(points) < MIN_POINTS:
        raise DataError(
            f"The joint law has {len(CONSTANTS)} constants and needs {MIN_POINTS} runs or more, got {len(points)}: "
            "add depths or budgets."
        )
    for name in ("parameters", "tokens"):
        count = len({round(math.log(getattr(point, name)), 3) for point in points})
        if count < MIN_VALUES:
            raise DataError(
                f"The joint law needs {MIN_VALUES} different numbers of {name} or more, got {count}: "
                f"add {'depths' if name == 'parameters' else 'budgets'}."
            )
    x, y = (np.log([getattr(point, name) for point in points]) for name in ("parameters", "tokens"))
    if abs(float(np.corrcoef(x, y)[0, 1])) > 0.9999:
        raise DataError(
            "The joint law needs runs whose parameters and tokens vary apart from each other; here one follows from "
            "the other (one budget, or one ratio of tokens to parameters): sweep several budgets."
        )


def _best_of(data: _Data, starts: Sequence[Array]) -> Array:
    """Return the constants, as logs, with the least Huber loss that is reached from `starts`."""
    results = [_polish(data, start) for start in starts]
    theta: Array = min(results, key=lambda result: float(result.cost)).x
    return theta


def _starts(data: _Data) -> list[Array]:
    """Return a start for each pair of exponents, the best first."""
    scale = np.exp(-data.log_loss)  # relative residuals
    low, high = data.bounds
    found = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            terms = np.stack([np.ones_like(data.x), np.exp(-alpha * data.x), np.exp(-beta * data.y)], axis=1)
            factors, error = nnls(terms * scale[:, None], np.ones_like(scale))
            logs = np.log(np.maximum(factors, np.exp(low[:3])))
            start = np.clip([*logs, alpha, beta], low + 1e-6, high - 1e-6)
            found.append((float(error), start))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])]


def _polish(data: _Data, start: Array) -> OptimizeResult:
    low, high = data.bounds
    return least_squares(
        lambda theta: data.log_law(theta) - data.log_loss,
        np.clip(start, low + 1e-9, high - 1e-9),
        jac=data.slopes,
        bounds=(low, high),
        loss="huber",
        f_scale=HUBER_DELTA,
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=400,
    )


def _intervals(laws: Sequence[JointLaw]) -> dict[str, Interval]:
    names = (*CONSTANTS, "parameter_exponent", "token_exponent")
    tail = 50 * (1 - CONFIDENCE)
    return {
        name: Interval(*(float(v) for v in np.percentile([getattr(law, name) for law in laws], [tail, 100 - tail])))
        for name in names
    }


def _undetermined(data: _Data, theta: Array) -> tuple[str, ...]:
    """Say which constants ran into the bounds of the search: the points do not hold them."""
    low, high = data.bounds
    shares = np.exp(data.terms(theta) - data.log_law(theta)).max(axis=1)
    reasons = [
        f"{name}: its term is nowhere more than {shares[index]:.0e} of the loss"
        for index, name in enumerate(CONSTANTS[:3])
        if shares[index] < 1e-4
    ]
    reasons += [
        f"{name}: it ran to the end of the search, {theta[index]:g}"
        for index, name in list(enumerate(CONSTANTS))[3:]
        if theta[index] > high[index] - 1e-3 or theta[index] < low[index] + 1e-3
    ]
    return tuple(reasons)
