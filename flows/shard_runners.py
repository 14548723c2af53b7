"""Where the work on single shards is done: in threads of the flow's process, in processes beside it, on a Dask cluster.

Each is a task runner of Prefect's, opened where there is work and closed after it. None outlives the flow's process,
however that ends: threads die with it, workers watch their parent, and the nannies of a local cluster do the same. What
a worker writes is whole or not there, so it may be stopped at any moment.
"""

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, cast

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from nanochat_core.hardware import usable_cores
from nanochat_core.specs import LaunchSpec

POLL_SECONDS = 0.5
MOST_WORKERS = 8  # where the spec names no number: more seldom help one disk and one network


class DaemonThreads(Executor):
    """A thread pool that its process does not wait for: Python's own would hold it until a download has ended."""

    def __init__(self, max_workers: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._max_workers = max_workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        if len(self._threads) < self._max_workers:
            self._threads.append(threading.Thread(target=self._work, name="nanochat-shard", daemon=True))
            self._threads[-1].start()
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Have the threads end: after what is queued, or with `cancel_futures` after what runs now."""
        while cancel_futures and not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()


class Threads(ThreadPoolTaskRunner[Any]):
    """Prefect's runner on `DaemonThreads`."""

    def __enter__(self) -> "Threads":
        super().__enter__()
        self._executor = cast(Any, DaemonThreads(self._max_workers))
        return self

    def abandon(self) -> None:
        """Leave what runs to itself, and begin no more."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class Processes(ProcessPoolTaskRunner):
    """Prefect's runner on worker processes that end with this one, and at once when they are abandoned."""

    def __init__(self, max_workers: int) -> None:
        self._stop = multiprocessing.get_context("spawn").Event()
        threads = max(1, usable_cores() // max_workers)
        super().__init__(max_workers, initializer=begin_worker, initargs=(self._stop, threads))

    def abandon(self) -> None:
        """Kill the workers, whatever they do."""
        self._stop.set()
        self.__exit__(None, None, None)


def begin_worker(stop: Event, threads: int) -> None:
    """In a new worker: share the cores with the others, and end with the parent, or when it says so."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    threading.Thread(target=end_with_parent, args=(stop,), name="nanochat-watch", daemon=True).start()


def end_with_parent(stop: Event) -> None:
    """End this process once its parent is gone, for whose next job it would wait for ever, or has set `stop`."""
    parent = multiprocessing.parent_process()
    while not stop.wait(POLL_SECONDS):
        if parent is not None and not parent.is_alive():
            break
    os._exit(1)


def dask_runner(launch: LaunchSpec, base: Path) -> TaskRunner[Any]:
    """Return a runner on the cluster at `launch.dask_address`, else on a local one for this flow alone.

    The local one talks TLS with keys made for it: whoever reaches a scheduler's port may run code there.
    """
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # read at import, by its workers too
    from prefect_dask.task_runners import DaskTaskRunner

    if launch.dask_address:
        return cast("TaskRunner[Any]", DaskTaskRunner(address=launch.dask_address))
    workers = num_workers(launch)
    options = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "security": True,
        "local_directory": str(base / "dask"),
        "env": {"RAYON_NUM_THREADS": str(max(1, usable_cores() // workers))},
    }
    return cast("TaskRunner[Any]", DaskTaskRunner(cluster_kwargs=options))


def num_workers(launch: LaunchSpec) -> int:
    """Return how many shards are worked on at a time."""
    return launch.shard_workers or min(usable_cores(), MOST_WORKERS)


def make_runner(launch: LaunchSpec, base: Path, threads: int) -> TaskRunner[Any]:
    """Return the runner that the spec asks for, not yet opened; `threads` is how many where it is threads."""
    if launch.shard_tasks == "threads":
        return Threads(max_workers=threads)
    return Processes(num_workers(launch)) if launch.shard_tasks == "processes" else dask_runner(launch, base)


def close(runner: TaskRunner[Any], *, is_abandoned: bool) -> None:
    """Close a runner after what it does now, or at once, whatever it does."""
    if is_abandoned and isinstance(runner, Threads | Processes):
        runner.abandon()
    else:
        runner.__exit__(None, None, None)
