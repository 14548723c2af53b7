"""A stage's folder and its MLflow run without a pipeline: what the tests of tracking write, and what MLflow shows."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from flows.stage import StageOutcome
from flows.tracking import StageTrack, Tracker
from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.metrics import MetricsWriter
from nanochat_core.recipes import recipe, runnable

SPEC = runnable(recipe("demo"))


def tracker(base: Path, name: str, *, owner: str) -> Tracker:
    """Return the tracker of a pipeline run called `name`, in the store that the environment names."""
    return Tracker(base, name, spec=SPEC, tags={"prefect_flow_run_id": owner, "recipe": "demo"})


def stage_folder(base: Path, stage: str = "pretrain", fingerprint: str = "ab" * 32) -> Path:
    """Make the folder of a stage that has not begun."""
    folder = base / "artifacts" / stage / fingerprint[:16]
    folder.mkdir(parents=True, exist_ok=True)
    request = StageRequest(stage=stage, version=1, fingerprint=fingerprint, params={"seed": 1})
    artifacts.write_json(folder / "spec.json", request.model_dump())
    return folder


def begin(tracker: Tracker, folder: Path) -> StageTrack:
    """Open the run of the stage in `folder`."""
    track = tracker.stage(folder.parent.name)
    track.describe(fingerprint=folder.name, params={"seed": 1}, folder=folder)
    track.start()
    return track


def write_steps(folder: Path, first: int, last: int) -> None:
    """Write a line for each step, as a stage does in one attempt."""
    writer = MetricsWriter(folder / "metrics.jsonl")
    for step in range(first, last + 1):
        writer.write(step, tokens=100 * step, flops=1e6 * step, **{"train/loss": 10.0 - step / 100})
    writer.close()


def finish(folder: Path, **metrics: float) -> StageOutcome:
    """Give the folder its result and its manifest."""
    (folder / "output.bin").write_bytes(str(sorted(metrics.items())).encode())
    StageFolder(folder).write_result(metrics, ["output.bin"])
    manifest = artifacts.finish(StageFolder(folder), git_commit="abc1234")
    return StageOutcome(
        stage=folder.parent.name,
        folder=folder,
        digest=manifest.digest,
        is_cached=False,
        seconds=1.0,
        git_commit="abc1234",
        metrics=dict(manifest.metrics),
        fingerprint=manifest.fingerprint,
    )


def runs(store: str, owner: str) -> tuple[Any, list[Any]]:
    """Return the client and the runs of a flow run, the parent first."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("nanochat")
    found = client.search_runs(
        [experiment.experiment_id], f"tags.prefect_flow_run_id = '{owner}'", order_by=["start_time ASC"]
    )
    return client, sorted(found, key=lambda run: "mlflow.parentRunId" in run.data.tags)


def steps(client: Any, run_id: str, key: str = "train/loss") -> list[int]:
    """Return the steps of a curve as MLflow has them, each as often as it is there."""
    counts = Counter(point.step for point in client.get_metric_history(run_id, key))
    return sorted(counts.elements())


def wait_until(is_so: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def shelve(base: Path) -> dict[Path, bytes]:
    """Return the files that say what MLflow is still to be told."""
    folder = base / "mlflow_pending"
    return {path: path.read_bytes() for path in folder.iterdir()}


def restore(base: Path, kept: dict[Path, bytes]) -> None:
    """Put back what `shelve` returned."""
    for path, content in kept.items():
        path.write_bytes(content)
