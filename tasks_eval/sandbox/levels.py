"""How far programs are kept apart here: a ladder of isolation, from the strongest that this machine grants downwards.

    namespaces+landlock+seccomp   no files but Python's own, no network, no other process, few system calls
    bubblewrap+seccomp            the same, and nothing to write in, through the program `bwrap`, where the kernel
                                  grants namespaces only to that
    landlock+seccomp              no files but Python's own, few system calls (no sockets, no processes)
    rlimits                       bounded time, memory and output, and few system calls where the kernel has seccomp;
                                  files can be read, without seccomp changed, and the network used: NOT a sandbox

A level counts where a probe that tries to break out finds that it holds. The last one is used only where somebody said
so: `permit_unsafe()`, or NANOCHAT_ALLOW_UNSAFE_CODE=1 in the environment.
"""

import functools
import os
import sys
from dataclasses import dataclass

from nanochat_core.errors import NanochatError
from tasks_eval.sandbox.inside.request import BUBBLEWRAP, LANDLOCK, NAMESPACES, RLIMITS
from tasks_eval.sandbox.process import Limits, SandboxBroken, run_at

LEVELS = (NAMESPACES, BUBBLEWRAP, LANDLOCK, RLIMITS)
UNSAFE = "NANOCHAT_ALLOW_UNSAFE_CODE"
REMEDY = (
    "Use Linux 5.13 or newer with Landlock and seccomp (in a container: its default profile is enough), or install "
    "bubblewrap"
)

# Prints what got through. A level that lets one of these through is none.
PROBE = """
import os, socket, sys
def attempt(name, action):
    try:
        action()
    except (OSError, RuntimeError):
        return
    print(name)
attempt("reads files outside", lambda: os.listdir(os.path.expanduser("~")))
attempt("reads files outside", lambda: open("/etc/passwd"))
attempt("reaches the network", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9)))
attempt("starts processes", lambda: os.fork() or os._exit(0))
attempt("signals other processes", lambda: os.kill(os.getppid() or -1, 0))
"""


@dataclass(frozen=True)
class Rung:
    """A level as it was probed. `trouble` says why it is not to be had here; empty: it is."""

    level: str
    trouble: str


@functools.cache
def rungs() -> tuple[Rung, ...]:
    """Return the levels from the strongest to the first that holds here, as probed once in a process's life."""
    found: list[Rung] = []
    for level in LEVELS:
        found.append(Rung(level, probe(level)))
        if not found[-1].trouble:
            break
    return tuple(found)


def probe(level: str) -> str:
    """Return why a level cannot be had on this machine, or nothing."""
    try:
        outcome = run_at(level, "" if level == RLIMITS else PROBE, Limits())
    except SandboxBroken as error:
        return error.reason
    if outcome.status != "exited" or outcome.returncode != 0:
        return f"a probe did not run to its end ({outcome.status}): {outcome.output.strip()[-200:]}"
    return f"does not hold: a program {', '.join(outcome.output.split(chr(10)))}".rstrip(", ") if outcome.output else ""


@functools.cache
def sandbox_level() -> str:
    """Return the isolation that programs get on this machine, one of `LEVELS`.

    Raises NanochatError where programs cannot be started at all.
    """
    last = rungs()[-1]
    if last.trouble:
        raise NanochatError(f"The sandbox cannot run a program on this machine: {last.trouble}")
    return last.level


_permitted = False


def permit_unsafe() -> None:
    """Allow this process to run model code without a sandbox, where the machine has none. The user must have asked."""
    global _permitted
    _permitted = True


def is_unsafe_permitted() -> bool:
    return _permitted or os.environ.get(UNSAFE) == "1"


def require_sandbox() -> str:
    """Return the level; raises NanochatError where it is the weakest and nobody allowed that."""
    level = sandbox_level()
    if level == RLIMITS:
        reasons = "; ".join(f"{rung.level}: {rung.trouble}" for rung in rungs() if rung.trouble)
        if not is_unsafe_permitted():
            raise NanochatError(
                f"This machine has no sandbox for code that a model writes ({reasons}). {REMEDY}. To run it all the "
                f"same, with your files and your network within its reach: --allow-unsafe-code, or {UNSAFE}=1."
            )
        _warn(f"warning: code that a model wrote runs WITHOUT a sandbox, as you allowed ({reasons}).")
    return level


@functools.cache
def _warn(text: str) -> None:
    """Say it once in a process's life."""
    print(text, file=sys.stderr, flush=True)
