"""How a stage's process is started, and what its end means."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import locks
from flows.launch import FollowedFile, StageProcess
from nanochat_core.errors import StageFailed
from nanochat_core.specs import LaunchSpec

LOGGER = logging.getLogger("test")
REQUEST = {"stage": "pretrain", "version": 1, "fingerprint": "f" * 64, "params": {}}


def stage_process(folder: Path, launch: LaunchSpec | None = None, **options: Any) -> StageProcess:
    options = {"uses_torchrun": True, "module": "some.stage"} | options
    return StageProcess(name="pretrain", folder=folder, launch=launch or LaunchSpec(), **options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact folder with a request, for the fake stage."""
    path = tmp_path / "artifacts" / "pretrain" / "f"
    path.mkdir(parents=True)
    (path / "spec.json").write_text(json.dumps(REQUEST))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "fake.log"))
    return path


def fake(folder: Path, **options: Any) -> StageProcess:
    return stage_process(folder, module="tests.flows.fake_stages.stage", uses_torchrun=False, **options)


def test_training_runs_under_torchrun_and_the_rest_does_not(tmp_path: Path) -> None:
    launch = LaunchSpec(nproc_per_node=2)
    command = stage_process(tmp_path, launch).command
    assert command[1:4] == ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    assert "--standalone" in command
    assert command[-3:] == ["-m", "some.stage", str(tmp_path / "spec.json")]
    assert stage_process(tmp_path, launch, uses_torchrun=False).command[1:] == command[-3:]


def test_several_nodes_meet_at_the_first(tmp_path: Path) -> None:
    launch = LaunchSpec(mode="multinode", nproc_per_node=8, nnodes=2, rdzv_endpoint="head:29500")
    process = stage_process(tmp_path, launch, attempt="abc")
    shared = {"--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=head:29500", f"--rdzv-id={tmp_path.name}-abc"}
    head, other = set(process.command), set(process.torchrun(tmp_path / "ranks", node="second"))
    assert shared <= head & other
    assert {"--rdzv-conf=is_host=1,join_timeout=600", "--local-addr=head"} <= head
    assert {"--rdzv-conf=is_host=0,join_timeout=600", "--local-addr=~second"} <= other


def test_each_try_meets_under_another_name(tmp_path: Path) -> None:
    launch = LaunchSpec(mode="multinode", nnodes=2, rdzv_endpoint="head:29500")
    assert stage_process(tmp_path, launch).command != stage_process(tmp_path, launch).command


def test_there_is_a_rank_for_each_gpu_and_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert stage_process(tmp_path).num_ranks == 1
    assert stage_process(tmp_path, LaunchSpec(nproc_per_node=4)).num_ranks == 4
    monkeypatch.setattr("flows.launch.visible_gpus", lambda _: ("H100",) * 8)
    assert stage_process(tmp_path).num_ranks == 8
    assert stage_process(tmp_path, LaunchSpec(device="cpu")).num_ranks == 1


def test_ranks_share_the_cores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.launch.usable_cores", lambda: 8)
    launch = LaunchSpec(nproc_per_node=2, device="cpu")
    assert stage_process(folder, launch).environment["OMP_NUM_THREADS"] == "4"
    assert stage_process(folder, launch).environment["NANOCHAT_DEVICE"] == "cpu"
    assert stage_process(folder, LaunchSpec(threads_per_rank=3)).environment["OMP_NUM_THREADS"] == "3"


def test_a_stage_that_ends_well_has_told_its_metrics(folder: Path) -> None:
    lines: list[dict[str, Any]] = []
    fake(folder).run(lines.extend, LOGGER)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert (folder / "result.json").exists()


def test_an_old_result_is_not_taken_for_a_new_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "result.json").write_text("{}")
    monkeypatch.setenv("FAKE_FAIL_STAGE", "pretrain")
    monkeypatch.setenv("FAKE_FAILURE", "crash")
    with pytest.raises(StageFailed, match="RuntimeError: the fake stage crashed") as failure:
        fake(folder).run(lambda _: None, LOGGER)
    assert failure.value.exit_code == 1


def test_a_stage_without_news_is_stopped_and_reported_as_stalled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL_STAGE", "pretrain")
    monkeypatch.setenv("FAKE_FAILURE", "hang")
    with pytest.raises(StageFailed, match="wrote no metric for"):
        fake(folder, stall_minutes=1.0 / 60).run(lambda _: None, LOGGER)
    assert "in fail" in (folder / "log.txt").read_text()  # the function that it hung in


def test_an_interrupted_wait_leaves_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL_STAGE", "pretrain")
    monkeypatch.setenv("FAKE_FAILURE", "hang")

    def interrupt(_: list[dict[str, Any]]) -> None:
        raise KeyboardInterrupt

    others = set(psutil.Process().children(recursive=True))
    with pytest.raises(KeyboardInterrupt):
        fake(folder).run(interrupt, LOGGER)
    assert set(psutil.Process().children(recursive=True)) <= others


def test_the_guard_holds_the_locks_of_a_task_that_was_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL_STAGE", "pretrain")
    monkeypatch.setenv("FAKE_FAILURE", "hang")
    hanging = Path(os.environ["FAKE_LOG"]).with_suffix(".hanging")
    lock = folder / ".lock"
    pid = os.fork()
    if pid == 0:
        with locks.hold(lock, on_wait=print) as descriptor:
            fake(folder).run(lambda _: None, LOGGER, held_locks=(descriptor,))
    while not hanging.exists():
        time.sleep(0.05)
    guard = psutil.Process(pid).children()[0]
    guard.suspend()  # as if it were busy ending the ranks
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    said: list[str] = []

    def release(line: str) -> None:
        said.append(line)
        guard.resume()

    with locks.hold(lock, on_wait=release):
        assert f"waiting for process {pid}" in said[0]


def test_a_followed_file_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    followed = FollowedFile(path)
    assert followed.new_lines() == []
    path.write_text("one\ntw")
    assert followed.new_lines() == ["one"]
    path.write_text("one\ntwo\nthree\n")
    assert followed.new_lines() == ["two", "three"]


def test_a_companion_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = f"""if True:
        from pathlib import Path
        import os, time
        from flows.launch import start_companion
        wait = "import os, pathlib, time; pathlib.Path(str(os.getpid())).touch(); time.sleep(600)"
        folder = Path({str(tmp_path)!r})
        is_running = start_companion(["-c", wait], folder, environment=dict(os.environ))
        while not [path for path in folder.iterdir() if path.name.isdigit()]:
            time.sleep(0.05)
        assert is_running()
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", script], check=False)
    companion = int(next(path.name for path in tmp_path.iterdir() if path.name.isdigit()))
    deadline = time.monotonic() + 10
    while psutil.pid_exists(companion):
        assert time.monotonic() < deadline
        time.sleep(0.05)
