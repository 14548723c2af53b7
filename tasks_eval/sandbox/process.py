"""Run a Python program in the sandbox: bounded time, memory, files and output, no network where the kernel allows.

The program runs in a session of its own, which is killed as a whole at the end, whatever happened. This is a seat belt
for code that a model wrote, not a wall against an attacker: files can be read, and root may start processes that leave
the session.
"""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nanochat_core.errors import NanochatError

JAIL = Path(__file__).with_name("jail.py")
PROGRAM_BYTES = 1 << 20  # a longer program is not run


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    wall_seconds: float = 20.0  # far above the CPU time, so that a busy machine does not change a verdict
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `output` is the beginning of its stdout and stderr, `level` the isolation it had."""

    status: Literal["exited", "timeout", "too much output", "too long to run"]
    returncode: int | None
    output: str
    level: str


def run_program(program: str, limits: Limits = Limits()) -> Outcome:
    """Run `program` and return how it ended. Never raises for what the program does."""
    source = program.encode("utf-8", errors="replace")
    if len(source) > PROGRAM_BYTES:
        return Outcome("too long to run", None, "", "")
    with tempfile.TemporaryDirectory(prefix="nanochat-sandbox-") as folder:
        (Path(folder) / "program.py").write_bytes(source)
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-X", "utf8", str(JAIL), json.dumps(asdict(limits))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": os.defpath, "PYTHONHASHSEED": "0"},  # sets in the same order in each run
            start_new_session=True,
        )
        try:
            status, output = _read_output(process, limits)
        finally:
            _kill_session(process)
    level, _, text = output.decode("utf-8", errors="replace").partition("\n")
    return Outcome(status, process.returncode if status == "exited" else None, text, level)


def _read_output(
    process: "subprocess.Popen[bytes]", limits: Limits
) -> tuple[Literal["exited", "timeout", "too much output"], bytes]:
    """Read until the program closes its output or exceeds a limit. Waits for its end in the first case."""
    assert process.stdout is not None
    deadline, output = time.monotonic() + limits.wall_seconds, b""
    while len(output) <= limits.output_bytes:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return "timeout", output
        chunk = os.read(process.stdout.fileno(), 1 << 14)
        if not chunk:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return "timeout", output
            return "exited", output
        output += chunk
    return "too much output", output[: limits.output_bytes]


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    """Kill the program with all that it started, and reap it."""
    with contextlib.suppress(ProcessLookupError):  # it has ended, and left nobody behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@functools.cache
def sandbox_level() -> str:
    """Return the isolation that programs get on this machine: "rlimits+no-network" or "rlimits".

    Raises NanochatError where programs cannot be started at all.
    """
    outcome = run_program("")
    if outcome.status != "exited" or outcome.returncode != 0:
        raise NanochatError(f"The sandbox cannot run an empty program ({outcome.status}): {outcome.output[-300:]!r}.")
    return outcome.level
