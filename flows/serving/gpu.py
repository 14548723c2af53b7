"""Keeping trainings off the GPUs while a model is served, where that is wanted.

A server on a CPU never holds the training lock; one on GPUs does only with `gpu="reserved"`. When a server takes over
the port of one that has reserved them, it cannot wait for the lock, which is free only once the other has gone: then it
takes it. A training that was waiting may come first; the server shares the GPUs with it, and has the lock after it.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from flows import locks
from flows.progress import warn
from flows.serving.record import ServingRecord, living
from nanochat_core import paths
from nanochat_core.hardware import visible_gpus

GpuUse = Literal["shared", "reserved"]
POLL_SECONDS = 0.2


def reserves(gpu: GpuUse, device: str | None) -> bool:
    """Tell whether a server on this device holds the training lock."""
    has_gpus = bool(visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")))
    return gpu == "reserved" and device in (None, "cuda") and has_gpus


@contextlib.contextmanager
def reserved(base: Path, record: ServingRecord) -> Iterator[Sequence[int]]:
    """Hold the training lock for the length of the block where `record` says so; yields what the guard is to hold.

    A training that runs is waited for; who serves on the same port is not.
    """
    path = paths.locks_dir(base) / "train.lock"
    if not record.reserves_gpu:
        yield ()
    elif any(other.port == record.port and other.reserves_gpu for other in living(base).values()):
        with taken_when_free(path):
            yield ()
    else:
        with locks.hold(path, on_wait=warn) as descriptor:
            yield (descriptor,)


@contextlib.contextmanager
def taken_when_free(path: Path) -> Iterator[None]:
    """Take the lock in the background as soon as nobody holds it, and keep it to the end of the block."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(POLL_SECONDS):
            with locks.held_if_free(path) as is_free:
                if is_free:
                    is_over.wait()

    keeper = threading.Thread(target=keep, name="nanochat-gpu-lock", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        is_over.set()
        keeper.join()
