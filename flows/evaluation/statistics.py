"""How much better one model is than another, the old one: the mean difference on the same examples, with its interval.

Both have answered the same questions, so what makes a question easy or hard for everybody drops out of the difference,
and fewer questions tell two models apart than a comparison of the two accuracies would need.

    d_i = new_i - old_i                  mean = Σ d_i / n      s = sqrt(Σ (d_i - mean)² / (n - 1) / n)
    interval = mean ± t(confidence, n - 1) · s                 t: Student's quantile (Gosset 1908)

Several tasks count alike: the mean of their means, whose variance is the sum of theirs over T², with the degrees of
freedom of Welch and Satterthwaite (1946). Pure: no file, no server.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True)
class Difference:
    """What `n` examples say: both means, the mean difference (new - old) and the interval around it.

    All but `n` and `freedom` (degrees of freedom of `stderr`) are shares of 1.
    """

    n: int
    old: float
    new: float
    mean: float
    stderr: float
    freedom: float
    low: float
    high: float


def paired_difference(old: Sequence[float], new: Sequence[float], *, confidence: float) -> Difference:
    """Return the difference of two models on the same examples, in the same order.

    The old one is right on 1, 2 and 3 of four questions, the new one on 2, 3 and 4: d = -1, 0, 0, 1.

    >>> found = paired_difference([1, 1, 1, 0], [0, 1, 1, 1], confidence=0.95)
    >>> found.old, found.new, found.mean, round(found.stderr, 4)
    (0.75, 0.75, 0.0, 0.4082)
    >>> round(found.low, 4), round(found.high, 4)  # t(0.975, 3) = 3.1824
    (-1.2992, 1.2992)

    Two models that answer alike differ by nothing, whatever the number of examples:

    >>> same = paired_difference([1, 0, 1], [1, 0, 1], confidence=0.95)
    >>> same.low, same.high
    (0.0, 0.0)

    One example says nothing about the spread, so its interval has no end. Raises ValueError for none, or for two
    lists that do not pair.
    """
    if len(old) != len(new) or not old:
        raise ValueError(f"{len(old)} and {len(new)} examples do not pair")
    n = len(old)
    differences = [after - before for before, after in zip(old, new, strict=True)]
    mean = math.fsum(differences) / n
    squares = math.fsum((difference - mean) ** 2 for difference in differences)
    stderr = math.sqrt(squares / (n - 1) / n) if n > 1 else math.inf
    return _with_interval(
        n=n,
        old=math.fsum(old) / n,
        new=math.fsum(new) / n,
        mean=mean,
        stderr=stderr,
        freedom=n - 1,
        confidence=confidence,
    )


def mean_difference(tasks: Sequence[Difference], *, confidence: float) -> Difference:
    """Return the mean over independent tasks, each with the same weight.

    >>> one = paired_difference([1, 1, 1, 0], [0, 1, 1, 1], confidence=0.95)
    >>> both = mean_difference([one, one], confidence=0.95)
    >>> both.n, round(both.stderr / one.stderr, 4), round(both.freedom, 6)
    (8, 0.7071, 6.0)

    Raises ValueError for no task.
    """
    if not tasks:
        raise ValueError("no task to average over")
    count = len(tasks)
    variances = [task.stderr**2 for task in tasks]
    total = math.fsum(variances)
    parts = math.fsum(
        variance**2 / task.freedom for variance, task in zip(variances, tasks, strict=True) if task.freedom
    )
    return _with_interval(
        n=sum(task.n for task in tasks),
        old=math.fsum(task.old for task in tasks) / count,
        new=math.fsum(task.new for task in tasks) / count,
        mean=math.fsum(task.mean for task in tasks) / count,
        stderr=math.sqrt(total) / count,
        freedom=total**2 / parts if 0 < parts < math.inf else sum(task.freedom for task in tasks),
        confidence=confidence,
    )


def _with_interval(
    *, n: int, old: float, new: float, mean: float, stderr: float, freedom: float, confidence: float
) -> Difference:
    is_exact = stderr == 0 or math.isinf(stderr)
    half = stderr if is_exact else float(stdtrit(freedom, 0.5 + confidence / 2)) * stderr
    return Difference(n, old, new, mean, stderr, freedom, mean - half, mean + half)
