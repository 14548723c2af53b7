"""What an outage of the MLflow server costs the stage that trains meanwhile, and whether MLflow then has every point.

    .venv/bin/python benchmarks/mlflow_outage.py [--full]

The demo's pretraining runs through `nanochat stage` and reports to a real server on loopback, which in turns is up, and
killed (kill -9) or frozen (it takes requests and answers none). The speed is that of the stretches between the changes,
without the seconds in which a server starts, for that takes a core. With --full an outage of five minutes comes last;
the speed is still judged by the short ones, whose neighbours are near in time. Where the stretches with the server up
differ among themselves, the machine had other work, and no speed is a result: that bar fails as well.
Prints a table, and as its last line one JSON object.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._machine import machine
from flows.tracking_points import PointReader
from tests.flows.live_mlflow import LiveMlflow

CHANGES = {  # the demo's pretraining, with nothing beside its steps, for as long as it takes
    "download.local_characters": 2_000_000,
    "pretrain.steps": 1_000_000,
    "pretrain.validation_every": 1_000_000,
    "pretrain.sample_every": 1_000_000,
    "pretrain.runtime.checkpoint_every": 1_000_000,
    "pretrain.runtime.log_every": 4,
    "launch.retries": 0,
}
UP_SECONDS = 18.0
SETTLE_SECONDS = 3.0  # after each change
SPEED_BAR = 0.98
QUIET_BAR = 1.1  # fastest over slowest stretch with the server up
LONG_SECONDS = 300.0
START_SECONDS = 300.0


@dataclass
class Stretch:
    """A piece of the run; times in seconds since the epoch, `cpu_share` of the flow process in shares of one core."""

    server: str
    start: float
    end: float
    cpu_share: float


@contextmanager
def running_stage(base: Path, uri: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run the stage; yield its flow process and its metrics.jsonl, once it trains. At the end it saves and stops."""
    sets = [f"--set={field}={json.dumps(value)}" for field, value in CHANGES.items()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment = clean | {"NANOCHAT_BASE_DIR": str(base), "MLFLOW_TRACKING_URI": uri}
    with open(base / "flow.log", "wb") as log:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "stage", "pretrain", "demo", *sets],
            env=environment,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield flow, wait_for_metrics(base, flow)
    finally:
        if flow.poll() is None:
            flow.send_signal(signal.SIGTERM)
        flow.wait(timeout=180)


def wait_for_metrics(base: Path, flow: "subprocess.Popen[bytes]") -> Path:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and flow.poll() is None:
        for path in (base / "artifacts" / "pretrain").glob("*/metrics.jsonl"):
            if len(train_lines(path)) > 5:
                return path
        time.sleep(0.5)
    raise RuntimeError(f"The stage did not begin:\n{(base / 'flow.log').read_text()[-3000:]}")


def train_lines(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if "train/loss" in line]


def measure(server: LiveMlflow, flow: psutil.Process, *, outages: list[tuple[str, float]]) -> list[Stretch]:
    """Take the server away and back, each time for so many seconds; return what to measure."""
    stretches = []
    for kind, seconds in outages:
        stretches.append(stretch("up", flow, UP_SECONDS))
        server.kill() if kind == "killed" else server.freeze()
        stretches.append(stretch(kind, flow, seconds))
        server.kill()
        server.start()
    stretches.append(stretch("up", flow, UP_SECONDS))
    return stretches


def stretch(server: str, flow: psutil.Process, seconds: float) -> Stretch:
    """Let the stage run for so long, the first SETTLE_SECONDS of which do not count."""
    time.sleep(SETTLE_SECONDS)
    start, before = time.time(), sum(flow.cpu_times()[:2])
    time.sleep(seconds - SETTLE_SECONDS)
    end = time.time()
    return Stretch(server, start, end, (sum(flow.cpu_times()[:2]) - before) / (end - start))


def speeds(path: Path, stretches: list[Stretch]) -> list[float]:
    """Return the tokens a second of each stretch: the median over its metric lines."""
    lines = train_lines(path)
    found = []
    for part in stretches:
        inside = [line for line in lines if part.start <= line["time"] <= part.end]
        pairs = list(itertools.pairwise(inside))
        rates = [(b["tokens"] - a["tokens"]) / (b["time"] - a["time"]) for a, b in pairs if b["time"] > a["time"]]
        found.append(statistics.median(rates))
    return found


def ratios(stretches: list[Stretch], rates: list[float]) -> list[float]:
    """Return, for each short outage, its speed over the mean speed of the stretches before and after it."""
    return [
        rates[number] / statistics.mean((rates[number - 1], rates[number + 1]))
        for number, part in enumerate(stretches)
        if part.server != "up" and part.end - part.start < LONG_SECONDS / 2
    ]


def compare_points(path: Path, store: str) -> dict[str, int]:
    """Return how many points the file has, and how many of them MLflow does not have, or has more than once."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("nanochat")
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'pretrain'")
    wanted = {(point.key, point.step): point.value for point in PointReader(path).new_points()}
    found: Counter[tuple[str, int]] = Counter()
    wrong = 0
    for run in runs:
        for key in {key for key, _ in wanted}:
            for point in client.get_metric_history(run.info.run_id, key):
                found[key, point.step] += 1
                wrong += wanted.get((key, point.step)) != point.value
    return {
        "runs of the stage": len(runs),
        "points": len(wanted),
        "missing": len(wanted.keys() - found.keys()),
        "double": sum(count > 1 for count in found.values()),
        "unequal": wrong,
    }


def show(stretches: list[Stretch], rates: list[float], points: dict[str, int]) -> None:
    table = Table("server", "seconds", "tokens/s", "flow process, % of a core")
    for part, rate in zip(stretches, rates, strict=True):
        table.add_row(part.server, f"{part.end - part.start:.0f}", f"{rate:,.0f}", f"{part.cpu_share:.2%}")
    console = Console(highlight=False)
    console.print(table)
    console.print(", ".join(f"{name}: {count:,}" for name, count in points.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="and an outage of five minutes")
    arguments = parser.parse_args()
    outages = [("killed", UP_SECONDS), ("frozen", UP_SECONDS)] * 2
    outages += [("killed", LONG_SECONDS)] if arguments.full else []
    with tempfile.TemporaryDirectory(prefix="nanochat-outage-") as folder:
        base = Path(folder) / "base"
        base.mkdir()
        with LiveMlflow(Path(folder) / "mlflow") as server:
            with running_stage(base, server.url) as (flow, path):
                stretches = measure(server, psutil.Process(flow.pid), outages=outages)
            rates = speeds(path, stretches)
            points = compare_points(path, server.store)
    show(stretches, rates, points)
    ratio = statistics.median(ratios(stretches, rates))
    quiet = [rate for part, rate in zip(stretches, rates, strict=True) if part.server == "up"]
    spread = max(quiet) / min(quiet)
    lost = points["missing"] + points["double"] + points["unequal"]
    outage = sum(part.end - part.start + SETTLE_SECONDS for part in stretches if part.server != "up")
    results = {
        "stretches": [vars(part) | {"tokens_per_second": rate} for part, rate in zip(stretches, rates, strict=True)],
        "ratios": ratios(stretches, rates),
        "outage_seconds": outage,
        "points": points,
    }
    bars = {
        "speed in an outage over speed without": {"value": round(ratio, 4), "bar": SPEED_BAR, "ok": ratio >= SPEED_BAR},
        "fastest over slowest speed without an outage (other work on the machine)": {
            "value": round(spread, 3),
            "bar": QUIET_BAR,
            "ok": spread <= QUIET_BAR,
        },
        "points missing, double or unequal afterwards": {"value": lost, "bar": 0, "ok": lost == 0},
        "runs of the stage": {
            "value": points["runs of the stage"],
            "bar": 1,
            "ok": points["runs of the stage"] == 1,
        },
    }
    print(json.dumps({"benchmark": "mlflow_outage", "machine": machine(), "results": results, "bars": bars}))


if __name__ == "__main__":
    main()
