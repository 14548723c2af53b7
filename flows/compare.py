"""`nanochat compare`: the parameters in which runs differ, their headline numbers side by side, and their curves.

In a terminal as tables and plots of dots, and with `--html` as one page that needs no other file.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotille
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.compare_runs import AXES, ComparedRun, Curve, RunFinder
from flows.report.layout import Section, lay_out, shown
from flows.report.plots import bare_axes, drawing
from nanochat_core.artifacts import write_bytes
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.model_chain import Training, made_by

BY = ("steps", *AXES)
CURVES = {
    "val/bpb": "bits per byte",
    "train/loss": "loss",
    "val/loss": "loss",
    "eval/core": "CORE",
    "eval/chatcore": "ChatCORE",
    "rl/reward": "reward",
    "val/margin": "margin of chosen over rejected",
    "val/accuracy": "pairs ranked right",
}
LOWER_IS_BETTER = ("bpb", "loss", "false_decline_rate")
HIGHER_IS_BETTER = ("accuracy", "core", "decline_rate", "reward", "margin", "pass_at", "tokens_per_second")
NO_SCORES = ("first", "before", "bigram")  # where a stage began, and what it is measured by
COLORS = ("bright_blue", "bright_red", "bright_green", "bright_magenta", "bright_yellow", "bright_cyan")
PAGE_COLORS = ("#3b82f6", "#e8853a", "#22a06b", "#c0559b", "#8b6fd6", "#b59a1b")
WIDTH, HEIGHT, MARGIN = 90, 14, 26  # of a plot, and of what stands beside it, in characters
HIDDEN = ("stderr/", "n/", "core_stderr", "chatcore_stderr")  # of an evaluation: they belong to other numbers
TERMINAL: dict[Training, str] = {  # the one curve of a kind of training that a terminal has room for
    "pretrain": "val/bpb",
    "finetune": "train/loss",
    "dpo": "val/margin",
    "reward_model": "val/accuracy",
    "rl": "rl/reward",
}
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, and a cell for each run. `best` are the numbers of the cells that win."""

    name: str
    cells: Sequence[str]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chart:
    """The curves of one metric of one stage, one for each run that has it."""

    stage: str
    metric: str
    by: str
    curves: Mapping[str, Curve]

    @property
    def name(self) -> str:
        return f"{self.stage}_{self.metric.replace('/', '_')}"

    @property
    def title(self) -> str:
        return f"{self.stage}: {self.metric} over {self.by}"


def find_runs(base: Path, references: Sequence[str]) -> tuple[list[ComparedRun], str | None]:
    """Return the runs that were named, or the newest two, and why MLflow could not be asked, if so.

    Raises SpecError for a single run, or for a name that means nothing.
    """
    if len(references) == 1:
        raise SpecError("One run alone cannot be compared: name two or more, or none for the newest two.")
    finder = RunFinder(base)
    runs = [finder.find(reference) for reference in references] if references else finder.newest(2)
    return [distinct(run, runs, number) for number, run in enumerate(runs)], finder.trouble


def distinct(run: ComparedRun, runs: Sequence[ComparedRun], number: int) -> ComparedRun:
    """Return the run under a name that no other has."""
    is_alone = sum(other.name == run.name for other in runs) == 1
    return run if is_alone else ComparedRun(f"{run.name} ({number + 1})", run.stages)


def check_axis(by: str) -> str:
    if by not in BY:
        raise SpecError(f"Unknown --by {by!r}{did_you_mean(by, BY)}.")
    return by


def different_params(runs: Sequence[ComparedRun]) -> list[Row]:
    """Return the parameters in which the runs differ, of the stages that more than one of them has."""
    rows = []
    for stage in stage_names(runs):
        having = [run.stages[stage].params if stage in run.stages else None for run in runs]
        if sum(params is not None for params in having) < 2:
            continue
        for name in dict.fromkeys(name for params in having if params for name in params):
            cells = [NOTHING if params is None else params.get(name, NOTHING) for params in having]
            if len(set(cells) - ({NOTHING} if None in having else set())) > 1:
                rows.append(Row(f"{stage}.{name}", cells))
    return rows


def scores(runs: Sequence[ComparedRun]) -> list[Row]:
    """Return the headline numbers of the training stages and of the evaluations, with the best of each row.

    What is equal everywhere and no measure of quality (steps, say) is left out.
    """
    rows = []
    for stage in stage_names(runs):
        if made_by(stage) is None and not stage.startswith("evaluate_"):
            continue
        having = [run.stages[stage].metrics if stage in run.stages else {} for run in runs]
        for name in dict.fromkeys(name for metrics in having for name in metrics):
            values = [metrics.get(name) for metrics in having]
            if name.startswith(HIDDEN) or (direction(name) is None and len(set(values)) == 1):
                continue
            rows.append(Row(f"{stage}: {name}", [number(value) for value in values], best_of(name, values)))
    return rows


def best_of(metric: str, values: Sequence[float | None]) -> frozenset[int]:
    """Return which values are the best; none where that is no question, or where all are equal.

    >>> best_of("val_bpb_last", [1.5, 1.25, None]), best_of("accuracy/Facts", [0.5, 0.75]), best_of("steps", [1, 2])
    (frozenset({1}), frozenset({1}), frozenset())
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    better = direction(metric)
    if len(set(known)) < 2 or better is None:
        return frozenset()
    best = better(known)
    return frozenset(number for number, value in enumerate(values) if value == best)


def direction(metric: str) -> Callable[[Iterable[float]], float] | None:
    """Return min or max, whichever is better for this metric; None for one that has no better."""
    if any(word in metric for word in NO_SCORES):
        return None
    if any(word in metric for word in LOWER_IS_BETTER):
        return min
    return max if any(word in metric for word in HIGHER_IS_BETTER) else None


def number(value: float | None) -> str:
    return shown(int(value) if value is not None and value.is_integer() and abs(value) < 1e15 else value)


def stage_names(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the stages of all runs, in order."""
    return list(dict.fromkeys(stage for run in runs for stage in run.stages))


def charts(runs: Sequence[ComparedRun], by: str) -> Iterator[Chart]:
    """Yield the curves that at least one run has, stage by stage."""
    for stage in stage_names(runs):
        for metric in CURVES:
            curves = {run.name: run.stages[stage].curve(metric, by) for run in runs if stage in run.stages}
            if any(len(curve) > 1 for curve in curves.values()):
                yield Chart(stage, metric, by, {name: curve for name, curve in curves.items() if len(curve) > 1})


def print_comparison(runs: Sequence[ComparedRun], by: str, console: Console) -> None:
    """Print the tables, and for each stage the curve that says most."""
    names = [run.name for run in runs]
    params, numbers = different_params(runs), scores(runs)
    if params:
        console.print(table("Parameters that differ", "parameter", names, params))
    else:
        console.print("The parameters are equal.")
    console.print(table("Results (best in bold)", "metric", names, numbers) if numbers else "No results yet.")
    for chart in charts(runs, by):
        model = made_by(chart.stage)
        if model and TERMINAL[model.training] == chart.metric:
            text = dots(chart, names, width=min(WIDTH, console.width - MARGIN), has_colors=console.is_terminal)
            console.print(Text.from_ansi(text), soft_wrap=True)


def table(title: str, first: str, names: Sequence[str], rows: Sequence[Row]) -> Table:
    found = Table(title=title, title_justify="left")
    found.add_column(first, no_wrap=True)
    for name in names:
        found.add_column(Text(name), justify="right", overflow="fold")
    for row in rows:
        cells = [Text(cell, style="bold green" if i in row.best else "") for i, cell in enumerate(marked(row))]
        found.add_row(Text(row.name), *cells)
    return found


def marked(row: Row) -> list[str]:
    """Return the cells, the best ones with a star: bold type is not seen everywhere."""
    return [f"{cell} *" if number in row.best else cell for number, cell in enumerate(row.cells)]


def dots(chart: Chart, names: Sequence[str], *, width: int, has_colors: bool) -> str:
    """Return the chart as text. Without colors, the points of each run are marked by a letter."""
    figure = plotille.Figure()
    figure.width, figure.height = max(20, width), HEIGHT
    values = [value for curve in chart.curves.values() for _, value in curve]
    margin = 0.05 * (max(values) - min(values)) or 1e-6
    last = max(x for curve in chart.curves.values() for x, _ in curve) or 1.0
    figure.set_x_limits(min_=0, max_=1.02 * last)  # what lies on the edge is not drawn
    figure.set_y_limits(min_=min(values) - margin, max_=max(values) + margin)
    figure.color_mode = "names"
    figure.with_colors = has_colors
    figure.x_label, figure.y_label = chart.by, CURVES[chart.metric]
    figure.register_label_formatter(float, lambda value, chars, delta, left=False: axis_label(value, chars, left))
    figure.register_label_formatter(int, lambda value, chars, delta, left=False: axis_label(value, chars, left))
    for name, curve in chart.curves.items():
        xs, ys = zip(*curve, strict=True)
        marker = None if has_colors else "ABCDEFGH"[names.index(name) % 8]
        color = COLORS[names.index(name) % len(COLORS)] if has_colors else None
        figure.plot(xs, ys, lc=color, label=name, marker=marker)
    return f"\n{chart.title}\n{figure.show(legend=True)}"


def axis_label(value: float, chars: int, left: bool) -> str:
    text = f"{value:.4g}"
    return text.ljust(chars) if left else text.rjust(chars)


def write_page(runs: Sequence[ComparedRun], by: str, path: Path) -> None:
    """Write the comparison as one HTML page. Raises SpecError where the file cannot be written."""
    names = [run.name for run in runs]
    found = list(charts(runs, by))
    sections = [
        Section("Results", note="The best of a row has a star.", columns=("metric", *names), rows=cells(scores(runs))),
        Section("Parameters that differ", columns=("parameter", *names), rows=cells(different_params(runs))),
        Section("Curves", plots=found),
    ]
    pictures = {chart.name: picture(chart, names) for chart in found}
    page = lay_out(" against ".join(names), {}, [s for s in sections if s.rows or s.plots], pictures)["report.html"]
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise SpecError(f"--html {path}: {error.strerror}; name a file in a folder that exists.") from None


def cells(rows: Sequence[Row]) -> list[list[str]]:
    return [[row.name, *marked(row)] for row in rows]


def picture(chart: Chart, names: Sequence[str]) -> str:
    """Return the chart as SVG."""

    def draw(figure: object) -> None:
        axes = bare_axes(figure, x_label=chart.by, y_label=CURVES[chart.metric])  # type: ignore[arg-type]
        for name, curve in chart.curves.items():
            xs, ys = zip(*curve, strict=True)
            axes.plot(xs, ys, label=name, color=PAGE_COLORS[names.index(name) % len(PAGE_COLORS)], linewidth=1.4)
        axes.legend(frameon=False, fontsize=8)

    return drawing(chart.name, draw)
