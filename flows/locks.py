"""Kernel file locks: freed when the last process that holds the open file is gone, however it went."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.5


@contextlib.contextmanager
def hold(path: Path, *, on_wait: Callable[[str], None]) -> Iterator[int]:
    """Hold an exclusive lock on the file `path` (made where there is none) and yield its descriptor.

    While somebody else holds it, calls `on_wait` once with a line that says who, and waits. A child process that
    inherits the descriptor holds the lock as well, until both have closed it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, path, on_wait)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, on_wait: Callable[[str], None]) -> None:
    has_told = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not has_told:
                holder = os.pread(descriptor, 100, 0).decode() or "another process"
                on_wait(f"waiting for {holder}, which holds {path}")
                has_told = True
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock for the length of the block where nobody else does; yields whether that is so. Never waits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = True
    except BlockingIOError:
        is_free = False
    try:
        yield is_free
    finally:
        os.close(descriptor)


def is_free(path: Path) -> bool:
    """Tell whether nobody holds the lock at this moment."""
    with held_if_free(path) as free:
        return free
