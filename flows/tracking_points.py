"""From a stage's metrics.jsonl to the points of MLflow's curves: the same file gives the same points at any time.

Every stage uses the same names: train/loss, train/grad_norm, train/lr_multiplier, train/tokens_per_second, val/loss,
val/bpb, rl/reward, rl/held_out_reward. MLflow plots over steps and over time by itself, and over any metric that has
the same steps: choose progress/tokens, progress/flops or progress/seconds as the x-axis of a chart.

After a resume, steps are written to the file again. Training is the same bit for bit, so their first writing counts.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROGRESS = {"tokens": "progress/tokens", "flops": "progress/flops"}
SECONDS = "progress/seconds"
NO_CURVES = {"step", "time", "attempt", "total_steps"}


class Point(NamedTuple):
    """One value of one curve; `timestamp` in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


class PointReader:
    """Reads a metrics file as it grows; each (key, step) is returned once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._last_step: dict[str, int] = {}
        self._clock = WorkClock()

    def new_points(self) -> list[Point]:
        """Return the points of the whole lines since the last call."""
        return [point for line in self._new_lines() for point in self._points(line)]

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists() or self._path.stat().st_size == self._offset:
            return
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:  # its writer was killed in the middle of it
                continue
            if isinstance(line, dict) and {"step", "time"} <= line.keys():
                yield line

    def _points(self, line: Mapping[str, Any]) -> Iterator[Point]:
        step, timestamp = line["step"], int(1000 * line["time"])
        values = list(numbers(line))
        if "attempt" in line:  # a stage's own line
            values.append((SECONDS, self._clock.seconds(line)))
        for name, value in values:
            if step > self._last_step.get(name, -1):
                self._last_step[name] = step
                yield Point(PROGRESS.get(name, metric_key(name)), value, timestamp, step)


class WorkClock:
    """Counts the seconds that a stage has worked: over all attempts, without the gaps between them."""

    def __init__(self) -> None:
        self._attempt: object = None
        self._first = self._last = self._before = 0.0

    def seconds(self, line: Mapping[str, Any]) -> float:
        """Return the seconds up to this line; lines come in the order of the file."""
        if line.get("attempt") != self._attempt:
            self._before += self._last - self._first
            self._attempt, self._first = line.get("attempt"), line["time"]
        self._last = line["time"]
        return round(self._before + self._last - self._first, 3)


def numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics in a line of metrics.jsonl: finite numbers, but for those that are no curve."""
    for name, value in line.items():
        if name not in NO_CURVES and isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


def metric_key(name: str) -> str:
    """Return the name in the letters that MLflow takes.

    >>> metric_key("pass@4"), metric_key("accuracy/ARC-Easy")
    ('pass_4', 'accuracy/ARC-Easy')
    """
    return re.sub(r"[^A-Za-z0-9_\-. /:]", "_", name)
