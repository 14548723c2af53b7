"""The machine that a benchmark ran on, and when: one line for its results."""

import time

from nanochat_core import hardware


def machine() -> str:
    """Return, for example, "2 cores (Intel Xeon), 23.5 GiB; 2026-11-21"."""
    return f"{hardware.describe().summary}; {time.strftime('%Y-%m-%d')}"
