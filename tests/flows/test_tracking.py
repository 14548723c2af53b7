"""What MLflow shows of a pipeline run, and that its absence costs nothing."""

import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import pipeline
from flows.tracking import Tracker
from nanochat_core.artifacts import read_manifest
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages


def runs_of(store: str, run_name: str) -> tuple[Any, dict[str, Any], Any]:
    """Return the parent run, its children by stage, and a client."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("nanochat")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if run.info.run_name == run_name)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, {run.data.tags["stage"]: run for run in children}, client


def test_a_run_has_a_child_for_each_stage_with_params_metrics_tags_and_files(
    finished_base: Path, mlflow_store: str
) -> None:
    parent, children, client = runs_of(mlflow_store, "finished")
    assert set(children) == {path.name for path in (finished_base / "artifacts").iterdir()}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["recipe"] == "demo"
    assert parent.data.metrics["pretrain/val_bpb_last"] == 2.0
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"report.md", "report.json"}
    child = children["pretrain"]
    manifest = read_manifest(next((finished_base / "artifacts" / "pretrain").iterdir()))
    assert manifest is not None
    assert child.data.tags["fingerprint"] == manifest.fingerprint
    assert child.data.tags["cached"] == "false"
    assert {"recipe", "git_commit", "prefect_flow_run_id"} <= child.data.tags.keys()
    assert child.data.params["model.depth"] == "4"
    assert (parent.data.params["pretrain.model.depth"], parent.data.params["midtrain"]) == ("4", "none")
    assert [entry.dataset.name for entry in child.inputs.dataset_inputs] == ["text"]
    assert child.inputs.dataset_inputs[0].dataset.digest == manifest.inputs["text"][:36]
    assert "result.json" in {file.path for file in client.list_artifacts(child.info.run_id)}


def test_a_resumed_stage_is_one_run_with_one_curve(finished_base: Path, mlflow_store: str) -> None:
    parent, children, _ = runs_of(mlflow_store, "broken")
    assert (parent.info.status, "pretrain" in children) == ("FAILED", False)  # it went on below the next run
    parent, children, client = runs_of(mlflow_store, "finished")
    assert children["pretrain"].data.tags["prefect_flow_run_id"] == parent.data.tags["prefect_flow_run_id"]
    assert children["pretrain"].info.status == "FINISHED"
    history = client.get_metric_history(children["pretrain"].info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]


def test_a_cached_stage_still_shows_its_headline_metrics(
    finished: FakeStages, short_spec: PipelineSpec, mlflow_store: str
) -> None:
    pipeline(with_changes(short_spec, {"run_name": "again"}))
    parent, children, _ = runs_of(mlflow_store, "again")
    assert parent.data.metrics["pretrain/val_bpb_last"] == 2.0
    assert children["pretrain"].data.tags["cached"] == "true"
    assert children["pretrain"].data.metrics["val_bpb_last"] == 2.0


def test_a_dead_server_costs_one_warning_and_little_time(
    finished: FakeStages, short_spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "nanochat.tracking"):
        result = pipeline(with_changes(short_spec, {"sft.seed": 9}))
    assert time.monotonic() - started < 20
    assert result.report.is_dir()
    assert [record.name for record in caplog.records].count("nanochat.tracking") == 1


def test_the_store_is_in_the_base_folder_by_default(
    base: Path, short_spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(base, "run", spec=short_spec, tags={})
    tracker.start()
    tracker.finish("FINISHED")
    assert tracker.trouble is None
    assert (base / "mlflow" / "mlflow.db").exists()
