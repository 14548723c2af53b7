"""What the UI shows of a running stage, on a real server."""

import json
import time
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from flows import background
from flows.live_view import LiveView, show_failure, table, thinned


def artifacts_of(key: str) -> list[Any]:
    """Return the artifacts under this key, the newest first, once all is written."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    assert background.flush(30)
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return sorted(found, key=lambda artifact: artifact.created, reverse=True)


def line(step: int, loss: float, **values: Any) -> dict[str, Any]:
    return {"step": step, "total_steps": 100, "time": time.time(), "attempt": 1, "train/loss": loss, **values}


@pytest.fixture
def view(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> LiveView:
    """A view that writes at every update."""
    monkeypatch.setattr("flows.live_view.PERIOD_SECONDS", -1.0)
    return LiveView("live_view_test")


def test_progress_and_losses_are_shown_while_the_stage_runs_and_at_its_end(view: LiveView) -> None:
    view.start()
    assert background.flush(30)
    view.update([line(10, 4.25, tokens=5120)])
    (progress,) = artifacts_of("live-view-test-progress")
    assert progress.data == 10.0
    assert progress.description.startswith("live_view_test: 10 % · step 10 of 100 · loss 4.25")
    view.update([line(20, 3.5, tokens=10240, **{"val/bpb": 1.75})])
    (losses,) = artifacts_of("live-view-test-losses")
    newest, first = json.loads(losses.data)
    assert newest == {"step": "20", "tokens": "10,240", "training loss": "3.5", "validation bpb": "1.75"}
    assert first["validation bpb"] == ""
    view.finish("done in 7 s", is_done=True)
    (progress,) = artifacts_of("live-view-test-progress")
    assert (progress.data, progress.description) == (100.0, "live_view_test: done in 7 s · 100 % · step 20 of 100")


def test_a_cached_stage_shows_nothing(prefect_server: str) -> None:
    LiveView("never_started").finish("done in 0 s", is_done=True)
    assert artifacts_of("never-started-progress") == []


def test_a_failure_says_which_stage_why_and_how_to_resume(prefect_server: str) -> None:
    show_failure("sft", RuntimeError("the last lines of the log"), "nanochat run demo")
    page = artifacts_of("failure")[0].data
    for part in ("# sft failed", "the last lines of the log", "**Retry**", "`nanochat run demo`"):
        assert part in page


def test_the_table_stays_short_and_keeps_the_newest_line() -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, 1001):
        lines = thinned([*lines, {"step": step, "train/loss": 1.0}, {"step": step, "progress": "nothing to show"}])
    assert len(lines) <= 40
    assert table(lines)[0] == {"step": "1,000", "training loss": "1"}
