"""Two machines, played by two launchers on loopback: they meet, train as one, and end together."""

import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.launch import StageProcess
from flows.pretrain import pretrain
from nanochat_core.errors import EXIT_PREEMPTED, StageFailed
from nanochat_core.metrics import read_metrics
from nanochat_core.specs import LaunchSpec, with_changes
from tests.flows.tiny import tiny
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench

LOGGER = logging.getLogger("test")
PROJECT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A base folder with inputs for pretraining; both machines see it."""
    return Workbench.build(tmp_path_factory.mktemp("shared"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two_nodes() -> LaunchSpec:
    """Return the launch of two machines with one rank each, that meet on loopback."""
    endpoint = f"127.0.0.1:{free_port()}"
    return LaunchSpec(
        mode="multinode", nnodes=2, rdzv_endpoint=endpoint, nproc_per_node=1, threads_per_rank=1, device="cpu"
    )


def head(folder: Path) -> StageProcess:
    return StageProcess("pretrain", "nanochat_core.stages.pretrain", folder, two_nodes(), uses_torchrun=True)


def start_node(base: Path) -> "subprocess.Popen[bytes]":
    """Start `nanochat join` on a base folder."""
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(PROJECT)}
    with open(base / "node.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "join"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )


@pytest.fixture
def node(bench: Workbench) -> Iterator[psutil.Process]:
    """A second machine."""
    process = start_node(bench.root.parent)
    yield psutil.Process(process.pid)
    process.terminate()
    assert process.wait(timeout=WAIT_SECONDS) in (130, -signal.SIGKILL)


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {WAIT_SECONDS:g} s"
        time.sleep(0.05)


def agent_of(node: psutil.Process) -> psutil.Process:
    """Return torchrun's agent on a node: the child of its guard."""
    (guard,) = node.children()
    return guard.children()[0]


def failure_of(process: StageProcess, during: Callable[[], None]) -> StageFailed:
    """Run the head's part of a stage, call `during` beside it, and return how it failed."""
    failures: list[StageFailed] = []

    def run() -> None:
        try:
            process.run(lambda _: None, LOGGER)
        except StageFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        during()
    finally:
        thread.join(WAIT_SECONDS)
    assert not thread.is_alive() and len(failures) == 1
    return failures[0]


def is_training(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / "metrics.jsonl").exists() and len(losses(folder)) > 3


def lives(process: psutil.Process) -> bool:
    """Tell whether the process still does something: one that is dead may wait a moment to be reaped."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_two_nodes_train_as_one(bench: Workbench, node: psutil.Process) -> None:
    one, two = bench.pretrain("one", steps=8), bench.pretrain("two-nodes", steps=8)
    head(two).run(lambda _: None, LOGGER)
    stage_folders.run(one)
    assert len(losses(two)) == 8
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


@pytest.mark.slow
def test_two_nodes_give_the_bytes_of_two_ranks_on_one(bench: Workbench, node: psutil.Process) -> None:
    one, two = bench.pretrain("two-ranks", steps=8), bench.pretrain("two-nodes-bytes", steps=8)
    head(two).run(lambda _: None, LOGGER)
    stage_folders.run(one, ranks=2)
    assert stage_folders.final_bytes(two) == stage_folders.final_bytes(one)


@pytest.mark.slow
def test_a_killed_agent_ends_the_stage_on_both_nodes_and_the_next_attempt_goes_on(
    bench: Workbench, node: psutil.Process
) -> None:
    folder = bench.pretrain("killed-agent", steps=400)
    ranks: list[psutil.Process] = []

    def kill() -> None:
        wait_until(is_training(folder), "training")
        ranks.extend(agent_of(node).children())
        agent_of(node).kill()

    failure = failure_of(head(folder), kill)
    assert failure.is_transient, failure
    assert ranks and not any(map(lives, ranks))
    assert psutil.Process().children() == [node]  # nothing else is left of the head's part
    head(folder).run(lambda _: None, LOGGER)
    assert len(losses(folder)) == 400
    assert {line["attempt"] for line in read_metrics(folder / "metrics.jsonl")} == {1, 2}
    logs = [path.read_text() for path in ((folder / "log.txt"), *(folder / "nodes").glob("*/log.txt"))]
    assert ["[rank 0] continuing" in log for log in logs] == [True, False]  # the head has rank 0


@pytest.mark.slow
def test_a_killed_node_ends_the_stage_on_the_head(bench: Workbench) -> None:
    folder = bench.pretrain("killed-node", steps=400)
    node = psutil.Process(start_node(bench.root.parent).pid)
    tree: list[psutil.Process] = []

    def kill() -> None:
        wait_until(is_training(folder), "training")
        tree.extend(node.children(recursive=True))
        node.kill()

    failure = failure_of(head(folder), kill)
    assert failure.is_transient and failure.exit_code == EXIT_PREEMPTED, failure
    psutil.wait_procs(tree, timeout=30)
    assert tree and not any(map(lives, tree))


@pytest.mark.slow
def test_a_killed_head_leaves_no_process_on_the_other_node(bench: Workbench, node: psutil.Process) -> None:
    folder = bench.pretrain("killed-head", steps=400)
    script = (
        "import logging, sys; from pathlib import Path; from tests.flows.test_multinode import head; "
        "head(Path(sys.argv[1])).run(lambda _: None, logging.getLogger())"
    )
    flow = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], env=os.environ | {"PYTHONPATH": str(PROJECT)}, cwd=PROJECT
    )
    wait_until(is_training(folder), "training")
    tree = node.children(recursive=True) + psutil.Process(flow.pid).children(recursive=True)
    assert len(tree) >= 6  # guard, agent and rank, twice
    flow.kill()
    flow.wait()
    _, alive = psutil.wait_procs(tree, timeout=60)
    assert not alive


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demos_pretraining_runs_on_two_nodes_and_survives_the_loss_of_one(base: Path, prefect_server: str) -> None:
    launch = two_nodes().model_dump(mode="json") | {"retry_seconds": 0.1}
    spec = with_changes(tiny(), {"launch": launch, "pretrain.steps": 300, "pretrain.runtime.log_every": 1})
    process = start_node(base)
    node = psutil.Process(process.pid)

    def kill() -> None:
        wait_until(lambda: any(is_training(path)() for path in (base / "artifacts").glob("pretrain/*")), "training")
        agent_of(node).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        outcomes = pretrain(spec)
    finally:
        killer.join()
        process.terminate()
        process.wait()
    lines = read_metrics(outcomes[-1].folder / "metrics.jsonl")
    assert lines[-1]["step"] == 300
    assert {line["attempt"] for line in lines} == {1, 2}


@pytest.mark.slow
def test_a_stall_dumps_the_stacks_of_both_nodes_and_the_head_shows_the_lines_of_all_ranks(
    bench: Workbench, node: psutil.Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = bench.pretrain("stalled", steps=4000)
    process = dataclasses.replace(head(folder), stall_minutes=10.0)

    def suspend() -> None:
        wait_until(is_training(folder), "training")
        agent_of(node).children()[0].suspend()
        object.__setattr__(process, "stall_minutes", 3.0 / 60)  # not before: starting takes longer than that

    failure = failure_of(process, suspend)
    assert "wrote no metric for" in str(failure)
    (log,) = (folder / "nodes").glob("*/log.txt")
    assert all("nanochat_core/training/run.py" in text for text in (log.read_text(), (folder / "log.txt").read_text()))
    assert any(record.message.startswith("[rank 1]") for record in caplog.records)
