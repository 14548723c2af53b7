"""The report's pictures of evaluations: every accuracy with its interval, and accuracy over the answers drawn."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from flows.report.plots import MORE_COLORS, Z95, bare_axes, drawing

GUESSING = "#8b8f98"
INCHES_A_DOT, GAP = 0.12, 0.8  # GAP: between two tasks, in dots


@dataclass(frozen=True)
class Dots:
    """One picture: for each task a dot and an interval for each model, and a stroke where guessing would be.

    `rows`: {model: {task: its entry in scores.json}}.
    """

    name: str
    title: str
    tasks: Sequence[str]
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Scaling:
    """One picture: a task's accuracy over the number of answers drawn; `curves`: {model: points of scores.json}."""

    name: str
    title: str
    curves: Mapping[str, Sequence[Mapping[str, Any]]]


EvaluationPlot = Dots | Scaling


def interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % interval of a task's accuracy: as it was measured, else from its standard error.

    >>> interval({"accuracy": 0.5, "stderr": 0.1, "low": 0.31, "high": 0.68})
    (0.31, 0.68)
    >>> [round(end, 3) for end in interval({"accuracy": 0.9, "stderr": 0.1})]
    [0.704, 1.0]
    """
    half = Z95 * row["stderr"]
    return row.get("low", max(0.0, row["accuracy"] - half)), row.get("high", min(1.0, row["accuracy"] + half))


def evaluation_svg(plot: EvaluationPlot) -> str:
    """Return the picture as an `<svg>` element; equal plots give equal text."""

    def draw(figure: Figure) -> None:
        if isinstance(plot, Dots):
            _draw_dots(figure, plot)
        else:
            _draw_scaling(figure, plot)

    return drawing(plot.name, draw)


def places(plot: Dots) -> dict[tuple[str, str], float]:
    """Return how far down the dot of each (task, model) stands: those of a task together, a gap between tasks.

    >>> row = {"accuracy": 0.5, "stderr": 0.1}
    >>> places(Dots("", "", ["a", "b"], {"Mid": {"a": row}, "SFT": {"a": row, "b": row}}))
    {('a', 'Mid'): 0.0, ('a', 'SFT'): 1.0, ('b', 'SFT'): 2.8}
    """
    found: dict[tuple[str, str], float] = {}
    down = 0.0
    for task in plot.tasks:
        models = [model for model, rows in plot.rows.items() if task in rows]
        found |= {(task, model): down + place for place, model in enumerate(models)}
        down += len(models) + GAP
    return found


def _draw_dots(figure: Figure, plot: Dots) -> None:
    where = places(plot)
    lowest = max(where.values())
    figure.set_size_inches(5, max(2.0, 0.9 + INCHES_A_DOT * lowest))
    axes = bare_axes(figure, x_label="accuracy", y_label="")
    middles = {}
    for task in plot.tasks:
        own = [y for (name, _), y in where.items() if name == task]
        middles[task] = (own[0] + own[-1]) / 2
        guessing = next(rows[task].get("baseline") for rows in plot.rows.values() if task in rows)
        if guessing:
            label = "" if axes.collections else "guessing"
            axes.vlines(guessing, own[0] - 0.6, own[-1] + 0.6, color=GUESSING, linewidth=1.2, label=label)
    for color, (model, rows) in zip(itertools.cycle(MORE_COLORS), plot.rows.items(), strict=False):
        found = [(row["accuracy"], interval(row), where[task, model]) for task, row in rows.items()]
        below = [max(0.0, value - low) for value, (low, _), _ in found]
        above = [max(0.0, high - value) for value, (_, high), _ in found]
        style: dict[str, Any] = {"fmt": "o", "color": color, "markersize": 3.5, "elinewidth": 1.2, "capsize": 2}
        axes.errorbar([x for x, _, _ in found], [y for _, _, y in found], xerr=[below, above], label=model, **style)
    axes.set_yticks(list(middles.values()), list(middles))
    axes.set_ylim(lowest + 1, -1)
    axes.set_xlim(0, 1)
    axes.grid(visible=False, axis="y")
    figure.legend(frameon=False, loc="outside upper right", ncols=5, fontsize=9)


def _draw_scaling(figure: Figure, plot: Scaling) -> None:
    axes = bare_axes(figure, x_label="answers drawn", y_label="share of questions")
    axes.set_xscale("log", base=2)
    drawn: set[int] = set()
    for color, (model, points) in zip(itertools.cycle(MORE_COLORS), plot.curves.items(), strict=False):
        for key, label, line in (("pass", "any is right", "-"), ("majority", "majority is right", "--")):
            found = [point for point in points if point.get(key) is not None]
            if found:
                samples, values = [point["samples"] for point in found], [point[key] for point in found]
                errors = [Z95 * (point.get(f"{key}_stderr") or 0.0) for point in found]
                style: dict[str, Any] = {
                    "marker": "o",
                    "markersize": 3,
                    "linewidth": 1.6,
                    "elinewidth": 1,
                    "capsize": 2,
                }
                axes.errorbar(
                    samples, values, yerr=errors, color=color, linestyle=line, label=f"{model}: {label}", **style
                )
                drawn |= set(samples)
    axes.set_xticks(sorted(drawn), [str(samples) for samples in sorted(drawn)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
