"""What Prefect, the guard and the feed of metrics cost, measured apart from the training that they run.

    .venv/bin/python benchmarks/orchestration.py [--full]

- a stage through the pipeline against the same torchrun command typed by hand, in turns;
- CPU time of the flow process and of the guard beside a running stage, as a share of one core (servers not counted);
- a pipeline in which everything is cached.

All with the servers of `nanochat up` running. Prints a table, and as its last line one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._machine import machine
from flows.launch import StageProcess
from nanochat_core.specs import LaunchSpec
from tests.faults.live_node import LiveNode, long_spec, wait_for
from tests.flows.tiny import CHANGES, ROWS

STAGE_SECONDS_BAR = 10.0
CPU_SHARE_BAR = 0.01
CACHED_SECONDS_BAR = 20.0


def timed(command: list[str], environment: dict[str, str], folder: Path) -> float:
    """Return the seconds that a command takes."""
    started = time.monotonic()
    done = subprocess.run(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return time.monotonic() - started


def nanochat(node: LiveNode, *arguments: str) -> float:
    """Return the seconds of `nanochat arguments` on the tiny pipeline."""
    sets = [f"--set={field}={json.dumps(value)}" for field, value in (CHANGES | ROWS).items()]
    command = [sys.executable, "-m", "flows.cli", *arguments, *sets]
    return timed(command, os.environ | {"NANOCHAT_BASE_DIR": str(node.base)}, Path(__file__).parent.parent)


def by_hand(folder: Path) -> float:
    """Return the seconds of the torchrun command of a stage whose folder has been made, on a copy of it."""
    copy = folder.with_name("by-hand")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    shutil.copy(folder / "spec.json", copy)
    process = StageProcess("pretrain", "nanochat_core.stages.pretrain", copy, LaunchSpec(), uses_torchrun=True)
    return timed(process.command, process.environment, copy)


def stage_cost(node: LiveNode, rounds: int) -> dict[str, Any]:
    """Time the stage through `nanochat stage` and by hand, in turns; all before it is cached."""
    nanochat(node, "stage", "pretrain", "demo")
    (folder,) = (path.parent for path in node.base.glob("artifacts/pretrain/*/spec.json"))
    through, hand = [], []
    for _ in range(rounds):
        through.append(nanochat(node, "stage", "pretrain", "demo", "--force", "pretrain"))
        hand.append(by_hand(folder))
    cost = statistics.median(a - b for a, b in zip(through, hand, strict=True))
    return {"through_the_flow_seconds": through, "by_hand_seconds": hand, "fixed_cost_seconds": cost}


def cpu_share(node: LiveNode, seconds: float) -> dict[str, Any]:
    """Return the CPU time of flow process and guard, as a share of one core, while a stage trains."""
    run_id = node.start("pretrain/pretrain", long_spec(**{"pretrain.steps": 200_000, "launch.nproc_per_node": 1}))
    node.wait_until_in_the_middle()
    flow = node.flow_process(run_id)
    guard = next(process for process in node.processes("flows.guard") if process.ppid() == flow.pid)
    time.sleep(15)  # imports and the first requests are over
    before, lines = [cpu_seconds(flow), cpu_seconds(guard)], len(node.steps())
    time.sleep(seconds)
    used = [now - then for now, then in zip([cpu_seconds(flow), cpu_seconds(guard)], before, strict=True)]
    lines_per_second = (len(node.steps()) - lines) / seconds
    flow.terminate()
    wait_for(lambda: not node.ranks(), "end of the training")
    return {
        "seconds": seconds,
        "metric_lines_per_second": round(lines_per_second, 1),
        "flow_process_share": used[0] / seconds,
        "guard_share": used[1] / seconds,
        "share": sum(used) / seconds,
    }


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def cached_pipeline(node: LiveNode, rounds: int) -> dict[str, Any]:
    """Time a run of the pipeline in which every stage is cached."""
    nanochat(node, "run", "demo")
    seconds = [nanochat(node, "run", "demo") for _ in range(rounds)]
    return {"seconds": seconds, "median_seconds": statistics.median(seconds)}


def bar(value: float, limit: float) -> dict[str, Any]:
    return {"value": round(value, 4), "bar": limit, "ok": value <= limit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds")
    rounds = 7 if parser.parse_args().full else 3
    with tempfile.TemporaryDirectory(prefix="nanochat-orchestration-") as folder:
        node = LiveNode(Path(folder) / "base")
        node.up()
        try:
            stage = stage_cost(node, rounds)
            cached = cached_pipeline(node, rounds)
            node.forget_pretraining()
            cpu = cpu_share(node, 30.0 * rounds)
        finally:
            node.down()
    bars = {
        "fixed seconds per stage": bar(stage["fixed_cost_seconds"], STAGE_SECONDS_BAR),
        "share of one core beside a stage": bar(cpu["share"], CPU_SHARE_BAR),
        "cached pipeline seconds": bar(cached["median_seconds"], CACHED_SECONDS_BAR),
    }
    table = Table("cost", "measured", "bar")
    for name, one in bars.items():
        table.add_row(name, f"{one['value']}", f"<= {one['bar']}")
    Console().print(table)
    results = {"stage": stage, "cpu": cpu, "cached": cached}
    print(json.dumps({"benchmark": "orchestration", "machine": machine(), "results": results, "bars": bars}))


if __name__ == "__main__":
    main()
