"""The table of what was measured beside what was to be reached, with which every benchmark ends."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_bars(bars: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print each bar: {"value": …, "bar": ">= 4", "ok": bool, "note": why it was not met, if not for its value}."""
    table = Table("what", "measured", "bar", "")
    for what, bar in bars.items():
        table.add_row(what, f"{bar['value']}", bar["bar"], "ok" if bar["ok"] else bar.get("note", "MISSED"))
    console.print(table)
