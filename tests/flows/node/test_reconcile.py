"""Prefect's records against the processes of this node, on a real server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelling, Running

from flows import run_lock
from flows.node import reconcile
from flows.node.reconcile import Reconciler
from tests.flows.test_run_lock import HOLD


@flow
def nothing() -> None:
    """A flow to make runs of."""


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def run_id(client: SyncPrefectClient) -> UUID:
    """A run that is Running as far as the server knows."""
    return client.create_flow_run(nothing, state=Running()).id


def leave_lock(base: Path, run_id: UUID, text: str) -> None:
    run_lock.folder(base).mkdir(parents=True, exist_ok=True)
    (run_lock.folder(base) / f"{run_id}.lock").write_text(text)


def state_of(client: SyncPrefectClient, run_id: UUID) -> tuple[str, str]:
    state = client.read_flow_run(run_id).state
    assert state is not None
    return state.name or "", state.message or ""


def test_a_run_whose_process_was_killed_becomes_crashed_and_says_how_to_go_on(
    client: SyncPrefectClient, run_id: UUID, tmp_path: Path
) -> None:
    leave_lock(tmp_path, run_id, "process 4711")
    (line,) = Reconciler(tmp_path).reconcile(client)
    assert line.endswith("Crashed, its process is gone")
    name, message = state_of(client, run_id)
    assert name == "Crashed"
    assert "process 4711" in message and "Retry" in message
    assert Reconciler(tmp_path).reconcile(client) == []


def test_runs_that_live_or_began_elsewhere_are_left_alone(
    client: SyncPrefectClient, run_id: UUID, tmp_path: Path
) -> None:
    elsewhere = client.create_flow_run(nothing, state=Running()).id
    with run_lock.alive(tmp_path, str(run_id)):
        assert Reconciler(tmp_path).reconcile(client) == []
    assert Reconciler(tmp_path).reconcile(client) == []  # it has ended, and will say so itself
    assert state_of(client, run_id)[0] == state_of(client, elsewhere)[0] == "Running"


def test_a_dead_run_is_first_left_to_its_worker(client: SyncPrefectClient, run_id: UUID, tmp_path: Path) -> None:
    leave_lock(tmp_path, run_id, "process 4711")
    patient = Reconciler(tmp_path, patience_seconds=0.4)
    assert patient.reconcile(client) == []
    assert state_of(client, run_id)[0] == "Running"
    time.sleep(0.5)
    assert len(patient.reconcile(client)) == 1


def test_a_cancelled_run_whose_process_is_gone_becomes_cancelled(
    client: SyncPrefectClient, run_id: UUID, tmp_path: Path
) -> None:
    leave_lock(tmp_path, run_id, "process 4711")
    client.set_flow_run_state(run_id, Cancelling())
    Reconciler(tmp_path).reconcile(client)
    assert state_of(client, run_id)[0] == "Cancelled"


def test_a_cancelled_run_that_no_worker_stops_is_stopped(
    client: SyncPrefectClient, run_id: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set_flow_run_state(run_id, Cancelling())
    script = HOLD.replace('"run"', repr(str(run_id)))
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert Reconciler(tmp_path).reconcile(client) == []  # its worker's turn
        monkeypatch.setattr(reconcile, "WORKER_SECONDS", -1.0)
        (line,) = Reconciler(tmp_path).reconcile(client)
        assert f"stopping process {process.pid}" in line
        assert process.wait(10) == -signal.SIGTERM


def test_every_run_of_the_node_is_told_to_stop(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert reconcile.stop_runs(tmp_path, 20) == ["run"]
        assert process.wait(10) == -signal.SIGTERM
    assert os.path.exists(run_lock.folder(tmp_path) / "run.lock")
