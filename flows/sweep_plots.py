"""Pictures of a sweep, as SVG: the isoFLOP curves, the best sizes over compute, the joint law, the miniseries."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from flows.report.plots import COLORS, INK, bare_axes, drawing
from flows.sweep_fits import MemberResult, SweepFits, of_budget
from nanochat_core.optim.isoflop import Optimum, PowerLaw
from nanochat_core.optim.scaling_laws import JointLaw, Point

BUDGET_COLORS = ("#3b82f6", "#e8853a", "#22a06b", "#c0559b", "#8b6fd6", "#b59a1b")
SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


@dataclass(frozen=True)
class SweepPlot:
    """One picture: its file's name, its title, and its SVG."""

    name: str
    title: str
    svg: str


def plots_of(results: Sequence[MemberResult], fits: SweepFits) -> list[SweepPlot]:
    """Return the pictures that the sweep has the data for."""
    finished = [result for result in results if result.point]
    plots: list[SweepPlot] = []

    def add(name: str, title: str, draw: Callable[[Figure], None]) -> None:
        plots.append(SweepPlot(name, title, drawing(name, draw)))

    if fits.optima:
        add("isoflop", "Validation loss over model size", lambda figure: _isoflop(figure, finished, fits.optima))
    if fits.size_law:
        add(
            "best_parameters",
            "Best model size over compute",
            lambda figure: _best(figure, finished, fits, "parameters"),
        )
    if fits.token_law:
        add("best_tokens", "Best number of tokens over compute", lambda figure: _best(figure, finished, fits, "tokens"))
    if fits.joint:
        add("joint_law", "The joint law against the runs", lambda figure: _joint(figure, finished, fits))
    if finished and not fits.optima and all(result.member.budget is None for result in finished):
        add("miniseries", "Validation loss over compute", lambda figure: _series(figure, finished, fits.compute_law))
    if any(result.core is not None for result in finished):
        add("core", "CORE over compute", lambda figure: _core(figure, finished))
    return plots


def short(value: float) -> str:
    """Return a count as an axis shows it.

    >>> short(350_000), short(1_310_720), short(2.5e9), short(20)
    ('350K', '1.31M', '2.5B', '20')
    """
    for scale, letter in SCALES:
        if value >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


def _log_axis(axis: object, values: Sequence[float]) -> None:
    """Make an axis logarithmic, with labels that can be read even where it spans less than a decade."""
    is_narrow = max(values) / min(values) < 300
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,)))  # type: ignore[attr-defined]
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]


def _isoflop(figure: Figure, results: Sequence[MemberResult], optima: Sequence[Optimum]) -> None:
    axes = bare_axes(figure, x_label="parameters N", y_label="bits per byte")
    axes.set_xscale("log")
    sizes = [float(result.member.parameters) for result in results]
    for index, optimum in enumerate(optima):
        color = BUDGET_COLORS[index % len(BUDGET_COLORS)]
        points = of_budget(results, optimum.compute)
        own = [point.parameters for point in points]
        curve = np.geomspace(min(own), max(own), 80)
        axes.plot(curve, [optimum.parabola.loss(size) for size in curve], color=color, linewidth=1.2, alpha=0.7)
        label = f"{optimum.compute:.3g}{' (open)' if optimum.edge else ''}"
        axes.plot(own, [point.loss for point in points], "o", color=color, markersize=4, label=label)
        if not optimum.edge:
            axes.plot([optimum.parameters], [optimum.loss], "*", color=color, markersize=11, markeredgecolor=INK)
    _log_axis(axes.xaxis, sizes)
    axes.legend(frameon=False, title="FLOPs", fontsize=8, title_fontsize=8)


def _best(figure: Figure, results: Sequence[MemberResult], fits: SweepFits, what: str) -> None:
    symbol, law = ("N", fits.size_law) if what == "parameters" else ("D", fits.token_law)
    assert law is not None
    inside = [optimum for optimum in fits.optima if not optimum.edge]
    axes = bare_axes(figure, x_label="training FLOPs C", y_label=f"{what} {symbol}*")
    axes.set_xscale("log")
    axes.set_yscale("log")
    computes = [optimum.compute for optimum in inside]
    values = [float(getattr(optimum, what)) for optimum in inside]
    axes.plot(computes, values, "*", color=COLORS[0], markersize=11, label="lowest points of the parabolas")
    ends = [min(computes) / 1.5, max(computes) * 1.5]
    line = f"{symbol}* ~ C^{law.exponent:.2f}"
    axes.plot(ends, [law.at(end) for end in ends], color=COLORS[1], linewidth=1.4, label=line)
    if fits.joint:
        lowest = [lowest_of_law(fits.joint.law, of_budget(results, compute)) for compute in computes]
        own = [pair[0] if what == "parameters" else pair[1] for pair in lowest]
        axes.plot(computes, own, "o--", color=COLORS[2], markersize=4, linewidth=1.2, label="lowest of the joint law")
        values += own
    _log_axis(axes.yaxis, values)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)


def lowest_of_law(law: JointLaw, points: Sequence[Point]) -> tuple[float, float]:
    """Return (N, D) where the law is lowest between the sizes of one budget, at the tokens that the budget pays for."""
    log_n, log_d = np.log(sorted((point.parameters, point.tokens) for point in points)).T
    sizes = np.linspace(log_n[0], log_n[-1], 400)
    tokens = np.interp(sizes, log_n, log_d)
    losses = [law.loss(math.exp(size), math.exp(count)) for size, count in zip(sizes, tokens, strict=True)]
    best = int(np.argmin(losses))
    return math.exp(sizes[best]), math.exp(tokens[best])


def _joint(figure: Figure, results: Sequence[MemberResult], fits: SweepFits) -> None:
    assert fits.joint is not None
    axes = bare_axes(figure, x_label="bits per byte of the law", y_label="bits per byte measured")
    points = [point for result in results if (point := result.point)]
    said = [fits.joint.law.loss(point.parameters, point.tokens) for point in points]
    ends = [min(said), max(said)]
    axes.plot(ends, ends, "--", color=COLORS[2], linewidth=1.2, label="equal")
    axes.plot(said, [point.loss for point in points], "o", color=COLORS[0], markersize=4, label="runs")
    axes.legend(frameon=False, fontsize=8)


def _series(figure: Figure, results: Sequence[MemberResult], law: PowerLaw | None) -> None:
    axes = bare_axes(figure, x_label="training FLOPs C", y_label="bits per byte")
    axes.set_xscale("log")
    points = [point for result in results if (point := result.point)]
    axes.plot([p.compute for p in points], [p.loss for p in points], "o", color=COLORS[0], markersize=4, label="runs")
    for result, point in zip(results, points, strict=True):
        axes.annotate(
            f"d{result.member.depth}", (point.compute, point.loss), (5, 5), textcoords="offset points", fontsize=8
        )
    if law:
        curve = np.geomspace(min(p.compute for p in points), max(p.compute for p in points), 50)
        label = f"L ~ C^{law.exponent:.3f}"
        axes.plot(curve, [law.at(float(c)) for c in curve], color=COLORS[1], linewidth=1.4, label=label)
        axes.legend(frameon=False, fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _core(figure: Figure, results: Sequence[MemberResult]) -> None:
    axes = bare_axes(figure, x_label="training FLOPs C", y_label="CORE")
    axes.set_xscale("log")
    known = [(result.member, result.core) for result in results if result.core is not None]
    axes.plot([m.compute for m, _ in known], [core for _, core in known], "o", color=COLORS[0], markersize=4)
    for member, core in known:
        axes.annotate(f"d{member.depth}", (member.compute, core), (5, 5), textcoords="offset points", fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
