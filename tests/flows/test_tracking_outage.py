"""Outages of a real MLflow server."""

import threading
from pathlib import Path

import pytest

from flows import tracking_record, tracking_writer
from flows.registry import find_registered
from nanochat_core.metrics import MetricsWriter
from tests.flows import tracked
from tests.flows.live_mlflow import LiveMlflow

pytestmark = pytest.mark.slow
KEYS = ("train/loss", "progress/tokens", "progress/flops", "progress/seconds")


class Training:
    """Writes a step every 20 ms, from a thread, until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        self._writer = MetricsWriter(folder / "metrics.jsonl")
        self.last = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.last += 1
            self._writer.write(self.last, tokens=self.last, flops=self.last, **{"train/loss": 1 / self.last})

    def run_for(self, steps: int) -> None:
        target = self.last + steps
        tracked.wait_until(lambda: self.last >= target, seconds=60)

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        self._writer.close()
        return self.last


def test_a_server_that_is_killed_and_frozen_misses_nothing_and_gets_nothing_twice(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(tracking_writer, "PERIOD_SECONDS", 0.2)
    with LiveMlflow(tmp_path / "mlflow") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        tracker = tracked.tracker(base, "live", owner="live")
        folder = tracked.stage_folder(base)
        tracker.start()
        track = tracked.begin(tracker, folder)
        training = Training(folder)
        tracked.wait_until(lambda: track.run_id, seconds=60)
        for harm in (server.kill, server.freeze, server.kill):
            training.run_for(100)
            harm()
            tracked.wait_until(lambda: tracker.trouble, seconds=60)
            training.run_for(100)
            server.kill()
            server.start()
            tracked.wait_until(lambda: not tracker.trouble, seconds=60)
        last = training.end()
        track.finish(tracked.finish(folder, val_bpb_last=1.5))
        tracker.finish("FINISHED")
        assert find_registered("models:/nanochat-demo-pretrain@newest", base) == folder  # by way of the server
    client, (parent, child) = tracked.runs(server.store, "live")
    wanted = list(range(1, last + 1))
    for key in KEYS:
        assert tracked.steps(client, child.info.run_id, key) == wanted, key
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert not list(tracking_record.pending_dir(base).iterdir())
