"""Training curves as SVG text that takes its ink from the page around it, so that one picture suits light and dark."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"  # replaced by currentColor
COLORS = ("#3b82f6", "#e8853a", "#8b8f98")  # readable on white and on near black
POINTS_AS_DOTS = 40  # a series with at most so many points shows them
Point = tuple[int, float]


@dataclass(frozen=True)
class Plot:
    """One picture: lines over the training step. `level` is a horizontal line to compare with, as (label, value)."""

    name: str
    title: str
    unit: str
    lines: Mapping[str, Sequence[Point]]
    level: tuple[str, float] | None = None


@dataclass(frozen=True)
class Curves:
    """Which metrics of a stage make one picture; a metric's label in the legend is its value."""

    name: str
    title: str
    unit: str
    metrics: Mapping[str, str] = field(default_factory=dict)


LOSSES = {"train/loss": "training batch", "val/loss": "held out"}
CURVES: dict[str, tuple[Curves, ...]] = {
    "pretrain": (
        Curves("pretrain_loss", "Pretraining: loss", "nats per token", LOSSES),
        Curves("pretrain_bpb", "Pretraining: validation", "bits per byte", {"val/bpb": "model"}),
    ),
    "midtrain": (Curves("midtrain_loss", "Mid-training: loss", "nats per token", LOSSES),),
    "sft": (Curves("sft_loss", "SFT: loss", "nats per token", LOSSES),),
    "rl": (
        Curves("rl_reward", "RL: mean reward", "reward", {"rl/reward": "rollouts", "rl/held_out_reward": "held out"}),
    ),
}


def plots_of(stage: str, lines: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[Plot]:
    """Return a stage's pictures from its `metrics.jsonl` lines and the headline `metrics` of its result."""
    plots = []
    for curves in CURVES.get(stage, ()):
        series = {label: points_of(lines, metric) for metric, label in curves.metrics.items()}
        level = None
        if curves.name == "rl_reward" and "reward_after" in metrics:
            series["held out"].append((int(metrics["steps"]), float(metrics["reward_after"])))
        if curves.name == "pretrain_bpb" and metrics.get("bigram_bpb") is not None:
            level = ("bigram table", float(metrics["bigram_bpb"]))
        series = {label: points for label, points in series.items() if points}
        if series:
            plots.append(Plot(curves.name, curves.title, curves.unit, series, level))
    return plots


def points_of(lines: Sequence[Mapping[str, Any]], metric: str) -> list[Point]:
    """Return (step, value) of each line that has the metric."""
    return [(int(line["step"]), float(line[metric])) for line in lines if metric in line]


def svg(plot: Plot) -> str:
    """Return the picture as an `<svg>` element; equal plots give equal text."""
    return drawing(plot.name, lambda figure: _draw(figure, plot))


def drawing(name: str, draw: Callable[[Figure], None]) -> str:
    """Return what `draw` puts into a figure of 5 x 3 inches, as an `<svg>` element; `name` sets the ids in it."""
    style = {
        "svg.fonttype": "none",  # text stays text: it scales, can be searched, and uses the page's font
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5, 3), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    element = text.getvalue()
    return element[element.index("<svg") :].replace(INK, "currentColor")


def bare_axes(figure: Figure, *, x_label: str, y_label: str) -> Axes:
    """Return axes with a light grid and no frame, on the page's own ground."""
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=INK, alpha=0.12, linewidth=0.6)
    return axes


def _draw(figure: Figure, plot: Plot) -> None:
    axes = bare_axes(figure, x_label="step", y_label=plot.unit)
    for color, (label, points) in zip(COLORS, plot.lines.items(), strict=False):
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= POINTS_AS_DOTS else ""
        axes.plot(steps, values, label=label, color=color, linewidth=1.6, marker=marker, markersize=3)
    if plot.level:
        axes.axhline(plot.level[1], label=plot.level[0], color=COLORS[2], linewidth=1.2, linestyle="--")
    if len(plot.lines) > 1 or plot.level:
        axes.legend(frameon=False)
