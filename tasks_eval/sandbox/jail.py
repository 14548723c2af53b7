"""The sandbox's inside: limits this process, says on its first line how far that went, then runs `program.py`.

    python -P -s -S jail.py '{"cpu_seconds": 5, "memory_bytes": 536870912, "file_bytes": 1048576}'

Started by `process.py` in an empty folder and a session of its own. Needs nothing but the standard library.
"""

import ctypes
import json
import os
import resource
import runpy
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
FULL, RLIMITS = "rlimits+no-network", "rlimits"


def main() -> None:
    limits = json.loads(sys.argv[1])
    level = FULL if leave_network() else RLIMITS
    set_limits(limits["cpu_seconds"], limits["memory_bytes"], limits["file_bytes"])
    print(level, flush=True)
    sys.argv = ["program.py"]
    runpy.run_path("program.py", run_name="__main__")


def leave_network() -> bool:
    """Move into a user and a network namespace of its own, which has no interface; False where the kernel refuses."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def set_limits(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Bound CPU time, address space, written files, open files; no core dumps, no further processes or threads."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    os.umask(0o077)
    main()
