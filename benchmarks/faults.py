"""Every fault of tests/faults in the middle of pretraining, on a real node; with --full five times each.

    .venv/bin/python benchmarks/faults.py [--full] [--only "worker killed"]

Prints a table, and as its last line one JSON object. Once each without --full; a minute for each on two cores.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._machine import machine
from tests.faults.faults import FAULTS
from tests.faults.live_node import LiveNode


def try_once(node: LiveNode, fault: str) -> dict[str, Any]:
    """Return {"ok", "seconds", "seen"} of one fault."""
    started = time.monotonic()
    try:
        seen, ok = FAULTS[fault](node), True
    except Exception as error:  # one broken promise must not hide the next
        seen, ok = f"{type(error).__name__}: {error}"[:2000], False
    return {"ok": ok, "seconds": round(time.monotonic() - started, 1), "seen": seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="five times each")
    parser.add_argument("--only", choices=sorted(FAULTS), action="append")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="nanochat-faults-") as folder:
        node = LiveNode(Path(folder) / "base")
        node.up()
        try:
            for fault in arguments.only or FAULTS:
                results[fault] = []
                for _ in range(5 if arguments.full else 1):
                    results[fault].append(try_once(node, fault))
                    console.print(f"{fault}: {results[fault][-1]}", markup=False)
        finally:
            node.down()
        survivors = [process.pid for process in node.processes()]
    table = Table("fault", "held", "seconds", "what was seen, the last time")
    for fault, tries in results.items():
        held = f"{sum(one['ok'] for one in tries)} of {len(tries)}"
        table.add_row(fault, held, f"{sum(one['seconds'] for one in tries) / len(tries):.0f}", tries[-1]["seen"])
    console.print(table)
    bars = {
        fault: {"value": sum(one["ok"] for one in tries), "bar": len(tries), "ok": all(one["ok"] for one in tries)}
        for fault, tries in results.items()
    }
    bars["processes left after down"] = {"value": len(survivors), "bar": 0, "ok": not survivors}
    print(json.dumps({"benchmark": "faults", "machine": machine(), "results": results, "bars": bars}))


if __name__ == "__main__":
    main()
