"""What the finished runs of a sweep tell: best sizes, laws, and notes on all that they do not tell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from nanochat_core.errors import DataError
from nanochat_core.optim.isoflop import Optimum, PowerLaw, find_optimum, fit_power_law
from nanochat_core.optim.scaling_laws import Interval, JointFit, Point, fit_joint_law
from nanochat_core.sweep_members import Member

T = TypeVar("T")
OFF_PARABOLA = 0.01  # of the loss: a parabola may miss the runs by so much before it is said
OFF_BUDGET = 0.05  # whole steps may miss a budget by so much before it is said
EDGES = {
    "smallest": "the smallest model did best: add shallower depths",
    "largest": "the largest model did best: add deeper models",
    "none found": "the runs lie in no valley: train longer, or on more depths",
}


@dataclass(frozen=True)
class MemberResult:
    """A run of the sweep: validation bits per byte at its end, CORE where asked; or `error`, why there are none."""

    member: Member
    bpb: float | None = None
    core: float | None = None
    folder: str = ""
    is_cached: bool = False
    seconds: float = 0.0
    error: str = ""

    @property
    def point(self) -> Point | None:
        if self.bpb is None:
            return None
        return Point(self.member.compute, self.member.parameters, self.member.tokens, self.bpb)


@dataclass(frozen=True)
class SweepFits:
    """Laws are None where the runs do not support them; `notes` says why.

    `size_law` is N*(C), `token_law` D*(C), both through the best sizes of the budgets; `compute_law` is the loss over
    the FLOPs of a miniseries.
    """

    optima: list[Optimum] = field(default_factory=list)
    size_law: PowerLaw | None = None
    token_law: PowerLaw | None = None
    compute_law: PowerLaw | None = None
    joint: JointFit | None = None
    notes: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Return every constant under the name that it has in MLflow, and the ends of its interval."""
        found: dict[str, float] = {}
        for name, law in (
            ("isoflop/parameter_exponent", self.size_law),
            ("isoflop/token_exponent", self.token_law),
            ("compute_exponent", self.compute_law),
        ):
            if law:
                found |= with_interval(name, law.exponent, law.interval)
        if self.joint:
            for name, interval in self.joint.intervals.items():
                found |= with_interval(f"joint/{name}", getattr(self.joint.law, name), interval)
            found["joint/error"] = self.joint.error
        for optimum in self.optima:
            if not optimum.edge:
                name = f"optimum/{optimum.compute:.3g}"
                found |= {f"{name}/parameters": optimum.parameters, f"{name}/tokens": optimum.tokens}
                found |= {f"{name}/val_bpb": optimum.loss}
        return found


def with_interval(name: str, value: float, interval: Interval | None) -> dict[str, float]:
    return {name: value} | ({f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {})


def fit_sweep(results: Sequence[MemberResult], *, text_tokens: float | None = None, resamples: int = 200) -> SweepFits:
    """Return the fits of a sweep.

    `text_tokens` is about how many tokens its text has, where that is known; `resamples` are behind each interval of
    the joint law.
    """
    notes = run_notes(results, text_tokens)
    budgets = sorted({result.member.budget for result in results if result.member.budget is not None})
    if not budgets:
        points = [point for result in results if (point := result.point)]
        law = tried(lambda: fit_power_law([p.compute for p in points], [p.loss for p in points]), notes)
        return SweepFits(compute_law=law, notes=notes)
    optima = [
        optimum
        for budget in budgets
        if (optimum := tried(partial(find_optimum, of_budget(results, budget), budget), notes))
    ]
    notes += [f"{o.compute:.3g} FLOPs: {EDGES[o.edge]}. No law goes through its point." for o in optima if o.edge]
    notes += [
        f"{o.compute:.3g} FLOPs: a parabola misses the runs by up to {o.misfit:.1%}, so that its lowest point is "
        "rough: take depths closer to it."
        for o in optima
        if o.misfit > OFF_PARABOLA
    ]
    size_law, token_law = laws_of([optimum for optimum in optima if not optimum.edge], notes)
    joint = tried(lambda: fit_joint_law([p for r in results if (p := r.point)], resamples=resamples), notes)
    if joint:
        notes += [f"Not determined by these runs: {reason}." for reason in joint.undetermined]
    return SweepFits(optima, size_law, token_law, None, joint, notes)


def laws_of(inside: Sequence[Optimum], notes: list[str]) -> tuple[PowerLaw | None, PowerLaw | None]:
    """Return N*(C) and D*(C) through best sizes that the runs enclose."""
    if len(inside) < 2:
        notes.append(f"N and D over compute need the best size of two budgets or more; found {len(inside)}.")
        return None, None
    if len(inside) == 2:
        notes.append("The exponents of N and D have no interval, for two budgets show no scatter: add a third.")
    computes = [optimum.compute for optimum in inside]
    return (
        fit_power_law(computes, [optimum.parameters for optimum in inside]),
        fit_power_law(computes, [optimum.tokens for optimum in inside]),
    )


def of_budget(results: Sequence[MemberResult], budget: float) -> list[Point]:
    return [point for result in results if result.member.budget == budget and (point := result.point)]


def tried(fit: Callable[[], T], notes: list[str]) -> T | None:
    """Return the fit, or None with a note of why the data do not support it."""
    try:
        return fit()
    except DataError as error:
        notes.append(str(error))
        return None


def run_notes(results: Sequence[MemberResult], text_tokens: float | None) -> list[str]:
    """Return what a reader of the laws should know of the runs behind them."""
    members = [result.member for result in results]
    notes = [f"{result.member.name} failed and is left out: {result.error}" for result in results if result.error]
    off = [m.name for m in members if m.budget and abs(m.compute / m.budget - 1) > OFF_BUDGET]
    if off:
        notes.append(f"Whole steps miss the budget by more than {OFF_BUDGET:.0%} in {', '.join(off)}: lower the batch.")
    repeats = [m.tokens / text_tokens for m in members if text_tokens and m.tokens > 1.05 * text_tokens]
    if repeats:
        notes.append(
            f"{len(repeats)} of {len(members)} runs read their text (about {text_tokens:,.0f} tokens) more than once, "
            f"up to {max(repeats):.1f} times: repeated tokens teach less than the laws assume."
        )
    return notes
