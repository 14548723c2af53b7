"""Nothing is lost and nothing is written twice, whatever the store does."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import tracking, tracking_record, tracking_writer
from flows.tracking_store import Store
from tests.flows import tracked


@pytest.fixture
def store(mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.setattr(tracking_writer, "PERIOD_SECONDS", 0.1)
    monkeypatch.setattr(tracking_writer, "FIRST_WAIT_SECONDS", 0.1)
    return mlflow_store


class Outage:
    """Makes the store's operations fail: before they are carried out, or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_down, self.loses_answers = False, 0
        self.stored: Counter[tuple[str, str, int]] = Counter()  # MLflow's own database may hide a double
        for name in ("find", "create", "log_points", "log_params", "steps"):
            monkeypatch.setattr(Store, name, self._unreliable(name, getattr(Store, name)))

    def _unreliable(self, name: str, work: Any) -> Any:
        def call(store: Store, *args: Any) -> Any:
            if self.is_down:
                raise ConnectionError("no route to host")
            answer = work(store, *args)
            if name == "log_points":
                self.stored.update((args[0], point.key, point.step) for point in args[1])
            if self.loses_answers and name in {"create", "log_points"}:
                self.loses_answers -= 1
                raise TimeoutError("no answer in time")
            return answer

        return call


@pytest.fixture
def outage(store: str, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 2.0)
    yield


def test_a_request_that_was_carried_out_before_it_timed_out_is_not_written_twice(
    base: Path, store: str, outage: Outage
) -> None:
    outage.loses_answers = 4
    tracker = tracked.tracker(base, "lossy", owner="lossy")
    folder = tracked.stage_folder(base)
    tracker.start()
    track = tracked.begin(tracker, folder)
    for first in range(1, 50, 10):
        tracked.write_steps(folder, first, first + 9)
        tracked.wait_until(lambda wanted=first + 9: (track.run_id, "train/loss", wanted) in outage.stored)
    track.finish(tracked.finish(folder, val_bpb_last=1.5))
    tracker.finish("FINISHED")
    assert outage.loses_answers == 0
    assert set(outage.stored.values()) == {1}
    client, (parent, child) = tracked.runs(store, "lossy")  # two, not four
    assert tracked.steps(client, child.info.run_id) == list(range(1, 51))
    assert tracked.steps(client, child.info.run_id, "progress/tokens") == list(range(1, 51))
    assert tracked.steps(client, child.info.run_id, "val_bpb_last") == [0]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")


def test_a_store_that_comes_back_gets_all_that_it_missed(base: Path, store: str, outage: Outage) -> None:
    tracker = tracked.tracker(base, "outage", owner="outage")
    folder = tracked.stage_folder(base)
    outage.is_down = True  # from the start
    tracker.start()
    track = tracked.begin(tracker, folder)
    tracked.write_steps(folder, 1, 20)
    tracked.wait_until(lambda: tracker.trouble)
    outage.is_down = False
    tracked.wait_until(lambda: track.run_id and not tracker.trouble)
    tracked.write_steps(folder, 21, 40)
    outage.is_down = True
    tracked.wait_until(lambda: tracker.trouble)
    tracked.write_steps(folder, 41, 60)
    outage.is_down = False
    track.finish(tracked.finish(folder, val_bpb_last=1.5))
    tracker.finish("FINISHED")
    client, (_, child) = tracked.runs(store, "outage")
    assert tracked.steps(client, child.info.run_id) == list(range(1, 61))
    assert not list(tracking_record.pending_dir(base).iterdir())


@pytest.mark.usefixtures("short_end")
def test_what_is_missing_at_the_end_is_written_by_the_next_run(
    base: Path, store: str, outage: Outage, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = tracked.tracker(base, "first", owner="first")
    folder = tracked.stage_folder(base)
    outage.is_down = True
    tracker.start()
    track = tracked.begin(tracker, folder)
    tracked.write_steps(folder, 1, 5)
    track.finish(tracked.finish(folder, val_bpb_last=1.5))
    started = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - started < 4
    assert "the next run" in capsys.readouterr().out.lower()
    outage.is_down = False
    following = tracked.tracker(base, "second", owner="second")
    following.start()
    following.finish("FINISHED")
    client, (parent, child) = tracked.runs(store, "first")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert tracked.steps(client, child.info.run_id) == [1, 2, 3, 4, 5]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.metrics["pretrain/val_bpb_last"] == 1.5
    assert not list(tracking_record.pending_dir(base).iterdir())


def test_a_second_attempt_goes_on_with_the_curve_of_the_first(base: Path, store: str) -> None:
    folder = tracked.stage_folder(base)
    tracker = tracked.tracker(base, "attempt-1", owner="attempt-1")
    tracker.start()
    track = tracked.begin(tracker, folder)
    tracked.write_steps(folder, 1, 10)
    track.fail()
    tracker.finish("FAILED")
    client, (_, broken) = tracked.runs(store, "attempt-1")
    assert (broken.info.status, tracked.steps(client, broken.info.run_id)) == ("FAILED", list(range(1, 11)))
    tracker = tracked.tracker(base, "attempt-2", owner="attempt-2")
    tracker.start()
    track = tracked.begin(tracker, folder)
    tracked.write_steps(folder, 6, 20)  # from the checkpoint of step 5
    track.finish(tracked.finish(folder, val_bpb_last=1.5))
    tracker.finish("FINISHED")
    client, (parent, child) = tracked.runs(store, "attempt-2")
    assert child.info.run_id == broken.info.run_id
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.status, tracked.steps(client, child.info.run_id)) == ("FINISHED", list(range(1, 21)))


def test_a_retry_of_the_same_flow_run_makes_no_second_run_of_anything(base: Path, store: str) -> None:
    folder = tracked.stage_folder(base)
    for attempt in (1, 2):
        tracker = tracked.tracker(base, "retried", owner="retried")
        tracker.start()
        track = tracked.begin(tracker, folder)
        tracked.write_steps(folder, 1, 5)
        if attempt == 1:
            track.fail()
            tracker.finish("FAILED")
    outcome = tracked.finish(folder, val_bpb_last=1.5)
    track.finish(outcome)
    tracker.finish("FINISHED")
    client, (parent, child) = tracked.runs(store, "retried")
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert tracked.steps(client, child.info.run_id) == [1, 2, 3, 4, 5]


def test_a_run_that_was_deleted_in_the_ui_does_not_hold_up_the_others(base: Path, store: str) -> None:
    tracker = tracked.tracker(base, "deleted", owner="deleted")
    tracker.start()
    tracked.wait_until(lambda: tracker.run_id)
    client, (parent,) = tracked.runs(store, "deleted")
    client.delete_run(parent.info.run_id)
    track = tracked.begin(tracker, folder := tracked.stage_folder(base))
    tracked.write_steps(folder, 1, 3)
    track.finish(tracked.finish(folder, val_bpb_last=1.5))
    tracker.finish("FINISHED")
    client, (child,) = tracked.runs(store, "deleted")
    assert tracked.steps(client, child.info.run_id) == [1, 2, 3]
