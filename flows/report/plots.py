"""Training curves as SVG text that takes its ink from the page around it, so that one picture suits light and dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nanochat_core.model_chain import Model, Training, made_by

INK = "#010203"  # replaced by currentColor
COLORS = ("#3b82f6", "#e8853a", "#8b8f98")  # readable on white and on near black
MORE_COLORS = (*COLORS[:2], "#2f9e63", "#a55cf0", "#d6455d", "#0e9aa7", "#b08a1e", COLORS[2])  # where lines are many
SHARE_RIGHT = "share right"  # a unit: from 0 to 1
Z95 = 1.96  # standard errors on each side of a 95 % interval
POINTS_AS_DOTS = 40  # a series with at most so many points shows them
Point = tuple[int, float]


@dataclass(frozen=True)
class Plot:
    """One picture: lines over the training step, no more than there are colors.

    `level` is a horizontal line to compare with, as (label, value). `errors` are the standard errors of the points of a
    line, by its label; they are drawn as a band, the 95 % interval.
    """

    name: str
    title: str
    unit: str
    lines: Mapping[str, Sequence[Point]]
    level: tuple[str, float] | None = None
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """Which metrics of a stage make one picture; a metric's label in the legend is its value."""

    name: str
    title: str
    unit: str
    metrics: Mapping[str, str] = field(default_factory=dict)


LOSSES = {"train/loss": "training batch", "val/loss": "held out"}
MARGINS = {"train/margin": "training batch", "val/margin": "held out"}
RANKED = {"train/accuracy": "training batch", "val/accuracy": "held out"}
CURVES: dict[Training, tuple[Curves, ...]] = {  # names and titles follow those of the stage
    "pretrain": (
        Curves("loss", "loss", "nats per token", LOSSES),
        Curves("bpb", "validation", "bits per byte", {"val/bpb": "model"}),
    ),
    "finetune": (Curves("loss", "loss", "nats per token", LOSSES),),
    "dpo": (Curves("margin", "margin of chosen over rejected", "nats of reward", MARGINS),),
    "reward_model": (Curves("accuracy", "pairs ranked right", "share", RANKED),),
    "rl": (
        Curves("reward", "mean reward", "reward", {"rl/reward": "rollouts", "rl/held_out_reward": "held out"}),
        Curves("length", "length of an answer", "tokens", {"rl/tokens_per_sample": "rollouts"}),
        Curves("entropy", "entropy", "nats a token", {"rl/entropy": "rollouts"}),
        Curves(
            "shares",
            "what teaches nothing, what is cut off",
            "share",
            {"rl/dead_groups": "questions answered alike", "rl/cut_off": "answers cut off"},
        ),
        Curves("kl", "KL of sampling and training", "nats a token", {"rl/sampling_kl": "rollouts"}),
    ),
}
MEANS = {"core": "CORE", "core_partial": "CORE, only some tasks", "chatcore": "ChatCORE"}


def plots_of(stage: str, lines: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[Plot]:
    """Return a stage's pictures from its `metrics.jsonl` lines and the headline `metrics` of its result."""
    model, plots = made_by(stage), []
    if model is None:
        return []
    for curves in CURVES[model.training]:
        series = {label: points_of(lines, metric) for metric, label in curves.metrics.items()}
        level = None
        if curves.name == "reward" and "reward_after" in metrics:
            last = (int(metrics["steps"]), float(metrics["reward_after"]))
            if last[0] not in dict(series["held out"]):
                series["held out"].append(last)
        if curves.name == "bpb" and metrics.get("bigram_bpb") is not None:
            level = ("bigram table", float(metrics["bigram_bpb"]))
        series = {label: points for label, points in series.items() if points}
        if series:
            title = f"{model.stage_title}: {curves.title}"
            plots.append(Plot(f"{stage}_{curves.name}", title, curves.unit, series, level))
    return plots + evaluator_plots(model, lines)


def evaluator_plots(model: Model, lines: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Return pictures of what was measured while a stage trained: each mean over tasks, the tasks, and pass@k.

    Tasks that are too many to tell apart in one picture are left to MLflow.
    """
    names = dict.fromkeys(name for line in lines for name in line)
    accuracies = {match[1]: name for name in names if (match := re.fullmatch("eval/(.+)/accuracy", name))}
    passes = {f"pass@{match[1]}": name for name in names if (match := re.fullmatch(r"rl/pass_at_(\d+)", name))}
    means = [match[1] for name in names if (match := re.fullmatch("eval/([^/]+?)", name)) and not is_aside(name)]
    stage, title = model.stage, model.stage_title
    plots = []
    for name in means:
        unit = "centred accuracy" if name in MEANS else name
        plots.append(
            plot_of(file_name(stage, name), f"{title}: {MEANS.get(name, name)}", unit, lines, {name: f"eval/{name}"})
        )
    if accuracies and len(accuracies) <= len(MORE_COLORS):
        plots.append(plot_of(f"{stage}_tasks", f"{title}: tasks", SHARE_RIGHT, lines, accuracies))
    if passes:
        plots.append(plot_of(f"{stage}_pass_at_k", f"{title}: pass@k, held out", "share solved", lines, passes))
    return plots


def file_name(stage: str, metric: str) -> str:
    """Return the name of a picture and its file.

    >>> file_name("sft", "my metric (%)")
    'sft_my-metric-'
    """
    return f"{stage}_{re.sub('[^A-Za-z0-9_]+', '-', metric)}"


def is_aside(metric: str) -> bool:
    """Tell whether a metric says something about another one: how sure that is, or what it took."""
    return metric.endswith(("_stderr", "_seconds"))


def plot_of(name: str, title: str, unit: str, lines: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> Plot:
    """Return the picture of {label: metric}, with the standard errors of those metrics that have them everywhere."""
    errors = {}
    for label, metric in metrics.items():
        beside = f"{metric}_stderr" if not metric.endswith("/accuracy") else metric.replace("/accuracy", "/stderr")
        known = [line[beside] for line in lines if metric in line and beside in line]
        if len(known) == len(points_of(lines, metric)):
            errors[label] = known
    return Plot(name, title, unit, {label: points_of(lines, metric) for label, metric in metrics.items()}, None, errors)


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
    for color, (label, points) in zip(MORE_COLORS, plot.lines.items(), strict=False):
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= POINTS_AS_DOTS else ""
        axes.plot(steps, values, label=label, color=color, linewidth=1.6, marker=marker, markersize=3)
        if label in plot.errors:
            halves = [Z95 * error for error in plot.errors[label]]
            low, high = ([value + sign * half for value, half in zip(values, halves, strict=True)] for sign in (-1, 1))
            if plot.unit == SHARE_RIGHT:
                low, high = [max(0.0, value) for value in low], [min(1.0, value) for value in high]
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    if plot.level:
        axes.axhline(plot.level[1], label=plot.level[0], color=COLORS[2], linewidth=1.2, linestyle="--")
    if len(plot.lines) > 1 or plot.level:
        axes.legend(frameon=False)
