"""`metrics.jsonl`: one JSON object a line, flushed, written by rank 0 only and never rewritten.

After a resume the steps after the checkpoint are written again with a higher `attempt`; readers keep the last per step.
"""

import json
import time
from pathlib import Path
from typing import Any

OF_A_LINE = ("step", "time", "attempt", "evaluating")  # not of its step


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file in order of step, the last writing of each step, merged over equal attempts.

    An unfinished last line (the writer was killed in it) is left out.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for line in _whole_lines(path):
        known = by_step.get(line["step"])
        if known is None or line["attempt"] > known["attempt"]:
            by_step[line["step"]] = dict(line)
        else:
            known.update(line)
    return [by_step[step] for step in sorted(by_step)]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class MetricsWriter:
    """Appends to `metrics.jsonl`; the attempt is one more than the file's last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.attempt = max((line.get("attempt", 0) for line in _whole_lines(path)), default=0) + 1
        is_torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the stage runs
        if is_torn:
            self._file.write("\n")

    def begin_attempt(self) -> None:
        """Count the lines from here on as another attempt: steps that are there already are written again."""
        self.attempt += 1

    def carry_over(self, step: int) -> dict[str, Any]:
        """Write again, as this attempt's, what earlier ones measured at `step`, and return that.

        For readers keep of a step only what the last attempt wrote, and this one may have more to say of it.
        """
        line = next((line for line in read_metrics(self._path) if line["step"] == step), {})
        values = {name: value for name, value in line.items() if name not in OF_A_LINE}
        if values:
            self.write(step, **values)
        return values

    def write(self, step: int, **values: Any) -> None:
        """Append one line: the step, seconds since the epoch, the attempt, and `values` (None is left out)."""
        line = {"step": step, "time": round(time.time(), 3), "attempt": self.attempt}
        line |= {name: value for name, value in values.items() if value is not None}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
