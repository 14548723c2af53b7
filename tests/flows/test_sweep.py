"""Sweeps on fake stages whose losses follow a planted law: what is shared, reused, found, and refused."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import flows.sweep
from flows.sweep import SweepResult, publish, sweep
from nanochat_core.errors import SpecError, StageFailed
from nanochat_core.optim.scaling_laws import CONSTANTS, JointLaw
from nanochat_core.recipes import recipe
from nanochat_core.specs import with_changes
from nanochat_core.sweep_specs import SweepSpec
from tests.flows.conftest import FakeStages

LAW = JointLaw(E=0.8, A=1.2e3, B=100.0, alpha=0.6, beta=0.4)
BASE = with_changes(recipe("demo"), {"pretrain.total_batch_tokens": 128, "launch.retries": 0})
SPEC = SweepSpec(depths=(2, 3, 4), budgets=(1e12, 4e12), base=BASE)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LAW", json.dumps(asdict(LAW)))


def read(result: SweepResult) -> dict:
    return json.loads((result.report / "report.json").read_text())


@pytest.mark.slow
def test_a_sweep_finds_the_planted_law_and_shares_text_and_tokenizer(fake_stages: FakeStages) -> None:
    result = sweep(SPEC)
    assert fake_stages.ran() == ["download", "tokenizer", *["pretrain"] * 6]
    assert result.fits.joint
    for name in CONSTANTS:
        assert getattr(result.fits.joint.law, name) == pytest.approx(getattr(LAW, name), rel=1e-3), name
    folders = {entry["folder"] for entry in read(result)["members"]}
    assert len(folders) == 6
    text = (result.report / "report.md").read_text()
    for expected in ("| alpha, joint law | 0.6 |", "| d3-4e12 |", "## Plots"):
        assert expected in text
    for name in ("isoflop", "joint_law"):
        assert (result.report / "plots" / f"{name}.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_a_failed_model_is_named_left_out_and_continued_by_the_same_sweep(
    fake_stages: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPEC.model_copy(update={"budgets": (1e12,), "base": with_changes(BASE, {"run_name": "mine"})})
    fake_stages.fail("pretrain", "crash")
    monkeypatch.setenv("FAKE_FAIL_DEPTH", "3")
    with pytest.raises(StageFailed, match=r"1 of 3 runs of the sweep failed: d3-1e12\. The others are in"):
        sweep(spec)
    assert fake_stages.ran() == ["download", "tokenizer", *["pretrain"] * 3]
    text = (fake_stages.base / "reports" / "sweeps" / "mine" / "report.md").read_text()
    assert "d3-1e12 failed and is left out: pretrain crashed" in text
    assert "The budget of 1e+12 FLOPs has 2 finished runs" in text
    fake_stages.heal()
    result = sweep(spec)
    assert fake_stages.ran() == ["pretrain"]
    assert [row.is_cached for row in result.results] == [True, False, True]
    assert result.report == fake_stages.base / "reports" / "sweeps" / "mine"
    assert (result.report.parent / "latest").resolve() == result.report.resolve()
    assert not (fake_stages.base / "newest_run.json").exists()  # `base` means what it meant before
    failed_folder = fake_stages.base / "artifacts" / result.results[1].folder
    attempts = [json.loads(line)["attempt"] for line in (failed_folder / "metrics.jsonl").read_text().splitlines()]
    assert attempts == [1, 1, 1, 2, 2]  # it went on from its checkpoint


@pytest.mark.slow
def test_a_retry_of_the_flow_run_keeps_the_name_and_goes_on(
    fake_stages: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Retry in the UI: another attempt of the same flow run. The time in the name is that of the first."""
    fake_stages.fail("pretrain", "crash")
    monkeypatch.setenv("FAKE_FAIL_DEPTH", "3")

    def publish_and_heal(*arguments: Any) -> Path:
        os.environ.pop("FAKE_FAIL_STAGE", None)
        return publish(*arguments)

    monkeypatch.setattr(flows.sweep, "publish", publish_and_heal)
    result = sweep.with_options(retries=1)(SPEC.model_copy(update={"budgets": (1e12,)}))
    assert fake_stages.ran() == ["download", "tokenizer", *["pretrain"] * 3, "pretrain"]
    assert [row.is_cached for row in result.results] == [True, False, True]
    folders = [path.name for path in (fake_stages.base / "reports" / "sweeps").iterdir() if not path.is_symlink()]
    assert folders == [result.name]


@pytest.mark.slow
def test_a_sweep_is_one_run_in_mlflow_with_its_constants_and_its_models_are_found_by_a_tag(
    fake_stages: FakeStages, mlflow_store: str
) -> None:
    import mlflow

    changes = {"run_name": "tracked", "pretrain.tokens_per_parameter": 2.0}
    base = with_changes(recipe("demo", data="hub"), changes)
    result = sweep(SweepSpec(kind="miniseries", depths=(2, 4), with_core=True, base=base))
    assert fake_stages.ran() == [
        "download_first",
        "tokenizer",
        "download",
        "task_data",
        *["pretrain", "evaluate_base"] * 2,
    ]
    assert [row.core for row in result.results] == [0.25, 0.25]
    assert result.fits.compute_law
    client = mlflow.MlflowClient(mlflow_store)
    experiment = client.get_experiment_by_name("nanochat")
    runs = client.search_runs([experiment.experiment_id], "tags.sweep = 'tracked'")
    parent = next(run for run in runs if run.info.run_name == "sweep-tracked")
    assert parent.info.status == "FINISHED"
    exponent = parent.data.metrics["sweep/compute_exponent"]
    assert exponent == pytest.approx(result.fits.compute_law.exponent)
    stages = [run for run in runs if run.data.tags.get("stage") == "pretrain"]
    assert {run.data.params["model.depth"] for run in stages} == {"2", "4"}
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.md", "report.html", "report.json", "miniseries.svg", "core.svg"} <= names


def test_a_sweep_that_does_not_fit_is_refused_before_anything_starts(fake_stages: FakeStages) -> None:
    with pytest.raises(SpecError, match="budgets: kind miniseries takes none"):
        sweep(SPEC.model_copy(update={"kind": "miniseries"}))
    assert fake_stages.ran() == []
    assert not (fake_stages.base / "reports").exists()


@pytest.mark.slow
def test_without_text_there_is_no_sweep(fake_stages: FakeStages) -> None:
    fake_stages.fail("download", "crash")
    with pytest.raises(StageFailed, match="download crashed"):
        sweep(SPEC)
    assert fake_stages.ran() == ["download"]
