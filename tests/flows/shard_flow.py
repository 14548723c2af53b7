"""A flow whose shards take for ever: `python -m tests.flows.shard_flow KIND FOLDER`.

Each task leaves FOLDER/<its process id>; killed or interrupted, nothing of it may live on.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

from prefect import Task, flow
from prefect.cache_policies import NO_CACHE

from flows import shard_runners
from nanochat_core.specs import LaunchSpec

WORKERS = 2


def where(_: int) -> tuple[int, str]:
    """Return the process that this runs in, and the address of the Dask worker that it belongs to, if any."""
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        return os.getpid(), str(get_worker().address)
    return os.getpid(), ""


def never_ends(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


WHERE = Task(where, cache_policy=NO_CACHE, persist_result=False)
NEVER_ENDS = Task(never_ends, cache_policy=NO_CACHE, persist_result=False)


@flow
def visit(kind: str, folder: Path, address: str | None = None) -> list[tuple[int, str]]:
    """Return where each of a few tasks ran."""
    workers = None if address else WORKERS
    launch = LaunchSpec(shard_tasks=cast(Any, kind), shard_workers=workers, dask_address=address)
    with shard_runners.make_runner(launch, folder, threads=WORKERS) as runner:
        futures = [runner.submit(WHERE, {"_": number}) for number in range(2 * WORKERS)]
        return [future.result() for future in futures]


@flow
def stay(kind: str, folder: Path) -> None:
    """Begin tasks that never end, and wait; however this is left, the runner is closed as a failed run closes it."""
    launch = LaunchSpec(shard_tasks=cast(Any, kind), shard_workers=WORKERS)
    runner = shard_runners.make_runner(launch, folder, threads=WORKERS).__enter__()
    try:
        for future in [runner.submit(NEVER_ENDS, {"folder": folder}) for _ in range(WORKERS)]:
            future.wait()
    finally:
        shard_runners.close(runner, is_abandoned=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background have it ignored
    stay(sys.argv[1], Path(sys.argv[2]))
