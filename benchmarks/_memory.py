"""The memory of a process as the system counts it, in bytes."""

import contextlib
import resource
import sys
from pathlib import Path

import psutil

PROC = Path("/proc/self")


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def reset_peak() -> None:
    """Let the peak begin anew; where the system does not allow it, it stays that of the whole process."""
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the most memory that was resident since `reset_peak`."""
    try:
        lines = (PROC / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
