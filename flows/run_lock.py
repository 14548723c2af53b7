"""A lock file for each flow run of this node: the kernel knows which run is alive, whatever Prefect's records say.

    $NANOCHAT_BASE_DIR/locks/runs/<flow run id>.lock     "process 4711" while it runs; "ended 4711" once it has ended

A free lock that still says "process" is that of a process which died in the middle.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from flows import locks
from flows.progress import warn
from nanochat_core import paths

Life = Literal["alive", "ended", "dead", "elsewhere"]


@dataclass(frozen=True)
class RunState:
    """What the lock file of a flow run says. `process_id` is of the process that holds the lock, or held it last.

    alive: its process holds the lock. ended: it has left its work in order. dead: it was killed in the middle.
    elsewhere: there is no file, so it has not begun on this node.
    """

    life: Life
    process_id: int | None = None


def folder(base: Path) -> Path:
    return paths.locks_dir(base) / "runs"


@contextlib.contextmanager
def alive(base: Path, flow_run_id: str) -> Iterator[None]:
    """Hold the lock of this flow run for the length of the block; an earlier attempt that still lives is waited for."""
    with locks.hold(folder(base) / f"{flow_run_id}.lock", on_wait=warn) as descriptor:
        try:
            yield
        finally:
            os.pwrite(descriptor, b"ended  ", 0)  # as long as "process"


def first_name(base: Path, flow_run_id: str, name: str) -> str:
    """Return the name that the first attempt of this flow run was given, which is `name` for the first."""
    path = folder(base) / f"{flow_run_id}.name"
    if path.exists():
        return path.read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding="utf-8")
    return name


def look(base: Path, flow_run_id: str) -> RunState:
    """Return what is known of a flow run on this node."""
    try:
        descriptor = os.open(folder(base) / f"{flow_run_id}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return RunState("elsewhere")
    try:
        word, _, number = os.pread(descriptor, 100, 0).decode(errors="replace").partition(" ")
        process_id = int(number) if number.strip().isdigit() else None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return RunState("alive", process_id)
        has_left = word == "ended" and process_id is not None and psutil.pid_exists(process_id)
        return RunState("ended" if has_left else "dead", process_id)
    finally:
        os.close(descriptor)


def living(base: Path) -> dict[str, int]:
    """Return {flow run id: process id} of the runs that are alive on this node."""
    found = {}
    for path in folder(base).glob("*.lock"):
        state = look(base, path.stem)
        if state.life == "alive" and state.process_id:
            found[path.stem] = state.process_id
    return found
