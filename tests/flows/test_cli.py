"""The `nanochat` command: what it prints, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app, parse_changes
from flows.summary import learning_lines
from tests.flows.conftest import FakeStages

SHORT = ("--set", "midtrain=null", "--set", "rl=null")


def nanochat(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dem"], "Unknown recipe 'dem' (did you mean 'demo'?)"),
        (["plan", "zzz"], "Unknown recipe 'zzz' (known: classic_d20"),
        (
            ["run", "demo", "--set", "pretrain.model.dept=3"],
            "unknown field pretrain.model.dept (did you mean 'depth'?)",
        ),
        (["run", "demo", "--set", "pretrain.model.depth=many"], "pretrain.model.depth: "),
        (["run", "demo", "--set", "pretrain.model.depth"], "expected field=value"),
        (["run", "demo", "--force", "pretrian"], "Unknown stage 'pretrian' (did you mean 'pretrain'?)"),
        (["run", "demo", "--data", "hug"], "Unknown --data 'hug' (did you mean 'hub'?)"),
        (["run", "demo", "--data", "path"], "--data-path"),
        (["run", "demo", "--set", "pretrain.precision=fp8"], "'fp8' needs GPUs that compute in it, here is none"),
        (["stage", "stf", "demo"], "Unknown stage 'stf' (did you mean 'sft'?)"),
        (["chat", "models:/nanochat@champion"], "No model 'nanochat' is registered in"),
        (["chat", "sfd"], "'sfd' is no model and no artifact folder (did you mean 'sft'?)"),
        (["chat"], "`nanochat run demo` trains one"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    base: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = nanochat(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_plan_shows_every_derived_number_and_refuses_nothing() -> None:
    assert "560,988,160" in nanochat("plan", "classic_d20").stdout
    planned = nanochat("plan", "speedrun")
    assert planned.exit_code == 0
    assert "5,568" in planned.stdout
    narrow, wide = (nanochat("plan", "demo", "--set", f"pretrain.model.depth={depth}").stdout for depth in (4, 6))
    assert narrow != wide


def test_values_of_set_are_json_or_else_text() -> None:
    assert parse_changes(["a.b=3", "c=null", "d=text", 'e=["x"]']) == {"a.b": 3, "c": None, "d": "text", "e": ["x"]}


def test_run_ends_with_the_stages_what_was_learned_and_the_report(finished: FakeStages) -> None:
    result = nanochat("run", "demo", "--run-name", "mine", *SHORT)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any("pretrain" in line and "Cached" in line for line in lines)
    assert any("validation bpb 4.000 -> 2.000, -50% (bigram table: 3.000)" in line for line in lines)
    assert any("nanochat chat" in line for line in lines)
    assert lines[-1] == f"Report: {finished.base}/reports/mine/report.md"


def test_the_summary_says_what_each_stage_taught() -> None:
    report = {
        "sft": {"arithmetic_accuracy": 0.875, "spelling_accuracy": 0.5},
        "rl": {"reward_before": 0.25, "reward_after": 0.5, "reward_gain_low": 0.125},
    }
    assert learning_lines(report) == [
        "sft: arithmetic 87.5% of held-out questions",
        "sft: spelling 50.0% of held-out questions",
        "rl: reward 0.250 -> 0.500 (gain at least +0.125)",
    ]


def test_a_failed_stage_ends_in_its_own_words_without_a_traceback(fake_stages: FakeStages) -> None:
    fake_stages.fail("download", "input")
    result = nanochat("run", "demo", *SHORT)
    assert result.exit_code == 2
    assert "error: download: shard 3 is corrupt: delete it" in result.stderr
    assert "Traceback" not in result.stderr


def test_stage_runs_what_a_stage_needs_and_no_more(fake_stages: FakeStages) -> None:
    assert nanochat("stage", "tokenizer", "demo").exit_code == 0
    assert fake_stages.ran() == ["download", "tokenizer"]
    assert nanochat("stage", "pretrain", "demo").exit_code == 0
    assert fake_stages.ran() == ["pretrain"]
    assert "has no stage rl" in nanochat("stage", "rl", "demo", "--set", "rl=null").stderr


@pytest.mark.slow
def test_the_terminal_shows_neither_prefects_log_nor_a_traceback(base: Path, prefect_server: str) -> None:
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "NANOCHAT_BASE_DIR": str(base)}
    environment.pop("PREFECT_LOGGING_LEVEL", None)
    arguments = [
        "stage",
        "tokenizer",
        "demo",
        "--set",
        "download.local_characters=200000",
        "--set",
        "tokenizer.vocab_size=150000",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: tokenizer: ")
    assert result.stderr.count("\n") == 1


def test_the_command_and_the_pipeline_import_no_torch() -> None:
    code = "import flows.cli, flows.pipeline, sys, json; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in json.loads(result.stdout)}
    assert not packages & {"torch", "tasks_eval", "deployments", "mlflow", "matplotlib"}
