"""What a crash has left of MLflow runs, and who sets it right."""

import shutil
from pathlib import Path

import pytest

from flows import run_lock, tracking_record
from flows.tracking import reconcile
from flows.tracking_reconcile import alone
from tests.flows import tracked


@pytest.fixture(autouse=True)
def store(mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    return mlflow_store


def crash(base: Path, owner: str) -> Path:
    """Leave behind what a flow that was killed leaves: open runs, and steps that MLflow has not seen."""
    tracker = tracked.tracker(base, owner, owner=owner)
    folder = tracked.stage_folder(base)
    tracker.start()
    track = tracked.begin(tracker, folder)
    tracked.wait_until(lambda: track.run_id)
    kept = tracked.shelve(base)
    tracker.finish("FAILED")  # ends the thread, which no kill could do here
    tracked.restore(base, kept)
    tracked.write_steps(folder, 1, 5)
    for run in tracked.runs(tracker.writer.store.uri, owner)[1]:
        tracker.writer.store.client.update_run(run.info.run_id, status="RUNNING")
    return folder


def test_a_run_that_a_crash_left_open_is_closed_with_all_its_points(base: Path, store: str) -> None:
    crash(base, "crashed")
    assert reconcile(base) == ["MLflow: finished 2 runs that a crash or an outage had left open"]
    client, (parent, child) = tracked.runs(store, "crashed")
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    assert tracked.steps(client, child.info.run_id) == [1, 2, 3, 4, 5]
    assert reconcile(base) == []


def test_a_run_whose_flow_is_alive_is_left_alone(base: Path, store: str) -> None:
    crash(base, "alive")
    with run_lock.alive(base, "alive"):
        assert reconcile(base) == []
    _, (parent, child) = tracked.runs(store, "alive")
    assert (parent.info.status, child.info.status) == ("RUNNING", "RUNNING")
    reconcile(base)


def test_an_open_run_of_which_no_file_tells_is_closed_if_it_is_of_this_folder(base: Path, store: str) -> None:
    crash(base, "forgotten")
    shutil.rmtree(tracking_record.pending_dir(base))
    assert reconcile(base.parent / "another") == []
    lines = reconcile(base)
    assert sorted(lines) == [
        "MLflow: forgotten: KILLED, its process is gone",
        "MLflow: pretrain demo-d4: KILLED, its process is gone",
    ]


def test_a_store_that_does_not_answer_is_reported_and_nothing_is_given_up(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(base, "offline")
    for path in tracking_record.pending_dir(base).iterdir():
        record = tracking_record.load(base, path.stem)
        assert record is not None
        tracking_record.save(base, record.model_copy(update={"store": "http://127.0.0.1:9"}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    lines = reconcile(base)
    assert any("still to be written to http://127.0.0.1:9" in line for line in lines)
    assert len(list(tracking_record.pending_dir(base).iterdir())) == 2


def test_two_processes_do_not_set_right_the_same_runs(base: Path) -> None:
    with alone(base) as is_alone:
        assert is_alone
        assert reconcile(base) == ["MLflow is being brought up to date by another process"]
