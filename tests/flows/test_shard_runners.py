"""Where the work on shards is done, and that none of it outlives the flow."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from flows.shard_runners import DaemonThreads
from tests.flows.shard_flow import WORKERS, visit

PROJECT = Path(__file__).parents[2]
SECONDS = 20.0


def test_abandoned_threads_are_not_waited_for_and_begin_nothing_more() -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    pool = DaemonThreads(1)
    running = pool.submit(lambda: (has_begun.set(), may_end.wait(SECONDS)))
    waiting = pool.submit(print)
    has_begun.wait(SECONDS)
    started = time.monotonic()
    pool.shutdown(wait=False, cancel_futures=True)
    assert time.monotonic() - started < 1
    assert waiting.cancelled() and not running.done()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "nanochat-shard")
    may_end.set()
    running.result(SECONDS)


def test_threads_do_their_work_and_pass_on_what_it_raises() -> None:
    pool = DaemonThreads(2)
    futures = [pool.submit(divmod, 7, number) for number in (2, 0)]
    pool.shutdown()
    assert futures[0].result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


@pytest.mark.parametrize(
    "kind", ["threads", pytest.param("processes", marks=pytest.mark.slow), pytest.param("dask", marks=pytest.mark.slow)]
)
def test_every_shard_is_done_in_the_place_that_the_spec_names(kind: str, tmp_path: Path, prefect_server: str) -> None:
    places = visit(kind, tmp_path)
    processes = {process for process, _ in places}
    assert len(places) == 2 * WORKERS
    assert (processes == {os.getpid()}) == (kind == "threads")
    assert len(processes) <= WORKERS
    assert all(worker.startswith("tls://127.0.0.1:") == (kind == "dask") for _, worker in places)
    assert not any(psutil.pid_exists(process) for process in processes - {os.getpid()})


@pytest.mark.slow
def test_a_cluster_that_is_there_already_is_used_and_left_as_it_was(tmp_path: Path, prefect_server: str) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        places = visit("dask", tmp_path, cluster.scheduler_address)
        assert {worker for _, worker in places} == set(cluster.scheduler_info["workers"])
        assert all(psutil.pid_exists(process) for process, _ in places)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_of_a_flow_that_is_killed_or_cancelled_lives_on(
    kind: str, number: signal.Signals, tmp_path: Path, prefect_server: str
) -> None:
    process = subprocess.Popen([sys.executable, "-m", "tests.flows.shard_flow", kind, str(tmp_path)], cwd=PROJECT)
    deadline = time.monotonic() + 60
    while len(workers := [path for path in tmp_path.iterdir() if path.name.isdigit()]) < (
        1 if kind == "threads" else 2
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    tree = psutil.Process(process.pid).children(recursive=True)
    assert {int(path.name) for path in workers} <= {process.pid, *(child.pid for child in tree)}
    process.send_signal(number)
    process.wait(SECONDS)
    _, alive = psutil.wait_procs(tree, timeout=SECONDS)
    assert alive == []
