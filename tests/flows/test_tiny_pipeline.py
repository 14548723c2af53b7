"""Every stage for real, torchrun included, at a size where only the plumbing is tested."""

import json
from pathlib import Path

import pytest

from flows import launch
from flows.pipeline import pipeline
from flows.tracking_points import PointReader
from nanochat_core.metrics import read_metrics
from tests.flows.tiny import tiny

SHARED = {
    *("train/loss", "train/grad_norm", "train/lr_multiplier", "train/tokens_per_second"),
    *("progress/tokens", "progress/flops", "progress/seconds"),
}
HELD_OUT = {"val/loss", "val/bpb"}
WHILE_TRAINING = {
    *("eval/chatcore", "eval/chatcore_stderr", "eval/chatcore_seconds"),
    *(f"eval/{task}/{number}" for task in ("Arithmetic", "Facts") for number in ("accuracy", "stderr")),
}
TRAINING = {
    "pretrain": HELD_OUT,
    "midtrain": HELD_OUT | WHILE_TRAINING,
    "sft": HELD_OUT | WHILE_TRAINING,
    "rl": {"rl/reward", "rl/tokens_per_sample", "rl/held_out_reward", "rl/pass_at_1"},
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_pipeline_runs_and_its_second_run_is_cached(
    base: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline(tiny())
    report = json.loads((first.report / "report.json").read_text())
    assert report["pretrain"]["val_bpb_last"] < report["pretrain"]["val_bpb_first"]
    for outcome in first.outcomes:
        if outcome.stage in TRAINING:
            names = {point.key for point in PointReader(outcome.folder / "metrics.jsonl").new_points()}
            assert names == SHARED | TRAINING[outcome.stage], outcome.stage
    stages = {outcome.stage: outcome for outcome in first.outcomes}
    for stage, evaluation in (("midtrain", "evaluate_mid"), ("sft", "evaluate_sft")):  # the same first questions
        last = read_metrics(stages[stage].folder / "metrics.jsonl")[-1]
        for task in ("Arithmetic", "Facts"):
            assert last[f"eval/{task}/accuracy"] == stages[evaluation].metrics[f"accuracy/{task}"]
    assert {f"{stage}_chatcore" for stage in ("midtrain", "sft")} <= {
        path.stem for path in (first.report / "plots").iterdir()
    }
    monkeypatch.setattr(launch.subprocess, "Popen", None)  # nothing may be started any more
    second = pipeline(tiny())
    assert {outcome.state for outcome in second.outcomes} == {"Cached"}
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]
