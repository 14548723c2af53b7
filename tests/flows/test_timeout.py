"""A flow with a time-out of Prefect's around a real torchrun: nothing survives it."""

import logging
import time
from pathlib import Path

import psutil
import pytest
from prefect import flow, task

from flows.launch import StageProcess
from nanochat_core.artifacts import write_json
from nanochat_core.specs import LaunchSpec
from tests.faults.live_node import command_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SECONDS = 20.0
REQUEST = {"stage": "pretrain", "version": 1, "fingerprint": "f" * 64, "params": {}}


@task(timeout_seconds=SECONDS)
def train(folder: Path) -> None:
    """Run a stage that never ends, on two ranks."""
    process = StageProcess(
        name="pretrain",
        module="tests.flows.fake_stages.stage",
        folder=folder,
        launch=LaunchSpec(nproc_per_node=2),
        uses_torchrun=True,
    )
    process.run(lambda lines: None, logging.getLogger("test"))


@flow
def with_timeout(folder: Path) -> None:
    """Train until the time is up."""
    train(folder)


def of(folder: Path) -> list[psutil.Process]:
    """Return the processes whose command line names the folder."""
    return [process for process in psutil.process_iter() if any(str(folder) in word for word in command_line(process))]


def test_a_time_out_of_a_task_leaves_no_process_of_torchrun(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifacts" / "pretrain" / "f"
    folder.mkdir(parents=True)
    write_json(folder / "spec.json", REQUEST)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "fake.log"))
    monkeypatch.setenv("FAKE_FAIL_STAGE", "pretrain")
    monkeypatch.setenv("FAKE_FAILURE", "hang")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        with_timeout(folder)
    assert (tmp_path / "fake.hanging").exists(), (folder / "log.txt").read_text()
    assert time.monotonic() - started < SECONDS + 40
    assert of(folder) == []
