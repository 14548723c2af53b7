"""A sweep for real, torchrun included, at sizes where only the plumbing is tested."""

import json
import math
from pathlib import Path

import pytest

from flows import launch
from flows.sweep import sweep
from nanochat_core.sweep_specs import SweepSpec
from tests.flows.tiny import tiny


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_sweep_trains_each_model_once_and_its_second_run_is_cached(
    base: Path, prefect_server: str, mlflow_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    spec = SweepSpec(depths=(1, 2, 3), budgets=(4e9, 1.2e10), base=tiny())
    first = sweep(spec)
    content = json.loads((first.report / "report.json").read_text())
    members = content["members"]
    assert [row["name"] for row in members] == ["d1-4e9", "d2-4e9", "d3-4e9", "d1-1.2e10", "d2-1.2e10", "d3-1.2e10"]
    assert all(math.isfinite(row["val_bpb"]) and not row["cached"] for row in members)
    for row in members:
        result = json.loads((base / "artifacts" / row["folder"] / "result.json").read_text())
        assert result["metrics"]["flops"] == pytest.approx(row["flops"])  # the sweep counts as the training does
        assert result["metrics"]["parameters"] == row["parameters"]
        assert result["metrics"]["tokens"] == row["tokens"]
    assert len(list((base / "artifacts" / "download").iterdir())) == 1
    assert len(list((base / "artifacts" / "tokenizer").iterdir())) == 1
    monkeypatch.setattr(launch.subprocess, "Popen", None)  # nothing may be started any more
    second = sweep(spec)
    assert all(row.is_cached for row in second.results)
    assert [row.bpb for row in second.results] == [row.bpb for row in first.results]
