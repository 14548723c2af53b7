"""How far a stage is: a bar in a terminal, a line now and then elsewhere. flows/live_view.py shows it in the UI."""

import contextlib
import sys
import time
from collections import deque
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_SECONDS = 20.0
WINDOW = 20  # metric lines over which the speed is measured
LOSSES = ("train/loss", "loss", "rl/reward")


def say(text: str) -> None:
    """Print one line for whoever watches: the terminal, or the log of a run that a worker has started."""
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(text, markup=False)


def note(text: str) -> None:
    """Say it, and log it with the run, where there is one."""
    say(text)
    with contextlib.suppress(MissingContextError):
        get_run_logger().info("%s", text)


def warn(text: str) -> None:
    """Say it, and log it with the run, where the UI shows it."""
    say(text)
    get_run_logger().warning("%s", text)


class Speed:
    """Steps and tokens a second over the last lines of one attempt."""

    def __init__(self) -> None:
        self._window: deque[dict[str, Any]] = deque(maxlen=WINDOW)

    def add(self, line: dict[str, Any]) -> None:
        if line.get("evaluating"):  # training stands still
            return self._window.clear()
        if self._window and line.get("attempt") != self._window[-1].get("attempt"):
            self._window.clear()
        self._window.append(line)

    def per_second(self, name: str) -> float | None:
        """Return the growth of the counter `name` a second, or None where it is not known yet."""
        known = [line for line in self._window if name in line]
        if len(known) < 2 or known[-1]["time"] <= known[0]["time"]:
            return None
        return float(known[-1][name] - known[0][name]) / float(known[-1]["time"] - known[0]["time"])


def latest(known: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a stage after one more line; what it was evaluating is over with the next line.

    >>> latest({"step": 5, "evaluating": "core: 64 of 11,000"}, {"step": 6})
    {'step': 6}
    """
    return {name: value for name, value in known.items() if name != "evaluating"} | line


def describe(latest: dict[str, Any], speed: Speed) -> str:
    """Return "loss 4.31 · 8,012 tok/s · 1:20 left", as far as it is known."""
    facts = [str(latest[name]) for name in ("progress", "evaluating") if name in latest]
    for name in LOSSES:
        if name in latest:
            facts.append(f"{name.split('/')[-1]} {latest[name]:.4g}")
            break
    if tokens := speed.per_second("tokens"):
        facts.append(f"{tokens:,.0f} tok/s")
    steps = speed.per_second("step")
    if steps and latest.get("total_steps"):
        left = max(0, latest["total_steps"] - latest["step"]) / steps
        facts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
    return " · ".join(facts)


class StageProgress:
    """The progress of one stage. Shows nothing before `start`: a cached stage passes in silence."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._latest: dict[str, Any] = {"step": 0}
        self._speed = Speed()
        self._bar: Progress | None = None
        self._line_time = time.monotonic()

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def start(self) -> None:
        """Show that the stage runs; a second call is another try of it."""
        if self._bar:
            return
        if not sys.stdout.isatty():
            return say(f"{self.stage}: started")
        columns = (TextColumn("{task.description:<22}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[facts]}"), transient=True)
        self._bar.add_task(self.stage, total=None, facts="")
        self._bar.start()

    def update(self, lines: list[dict[str, Any]]) -> None:
        """Take in new lines of metrics.jsonl."""
        for line in lines:
            self._latest = latest(self._latest, line)
            self._speed.add(line)
        facts, now = describe(self._latest, self._speed), time.monotonic()
        if self._bar:
            total = self._latest.get("total_steps")
            self._bar.update(self._bar.task_ids[0], completed=self._latest["step"], total=total, facts=facts)
        elif now - self._line_time > LINE_SECONDS:
            self._line_time = now
            note(f"{self.stage}: step {self._latest['step']}/{self._latest.get('total_steps', '?')} · {facts}")
