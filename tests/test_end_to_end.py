"""The `nanochat` command, with every real part and on real processes: a pipeline small enough for a minute.

Slow: each run starts Prefect, MLflow and a dozen stages.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanochat_core.artifacts import read_json, read_manifest
from tests.flows.tiny import CHANGES, ROWS
from tests.hub_server import HubServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = {"pretrain.steps": 200, "pretrain.runtime.checkpoint_every": 5, "pretrain.runtime.log_every": 1}


def start(base: Path, changes: dict[str, Any], *options: str, **environment: str) -> "subprocess.Popen[str]":
    """Start `nanochat run demo` in `base` with fields changed."""
    sets = [f"--set={field}={json.dumps(value)}" for field, value in changes.items()]
    command = [sys.executable, "-m", "flows.cli", "run", "demo", *sets, *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        command,
        env=clean | {"NANOCHAT_BASE_DIR": str(base), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(base: Path, changes: dict[str, Any], *options: str, **environment: str) -> dict[str, Any]:
    """Run the pipeline to its end and return its report.json."""
    process = start(base, changes, *options, **environment)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return read_json(base / "reports" / "latest" / "report.json")


def states(report: dict[str, Any]) -> dict[str, str]:
    return {stage: entry["state"] for stage, entry in report["stages"].items()}


def digests(report: dict[str, Any]) -> dict[str, str]:
    return {stage: entry["digest"] for stage, entry in report["stages"].items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def first(base: Path) -> dict[str, Any]:
    """The report of a run that was never interrupted."""
    return run(base, CHANGES | ROWS | STEPS)


def test_a_run_makes_every_stage_and_the_next_finds_them_all_cached(base: Path, first: dict[str, Any]) -> None:
    assert set(states(first).values()) == {"Completed"}
    assert len(states(first)) == 14
    started = time.monotonic()
    again = run(base, CHANGES | ROWS | STEPS)
    assert set(states(again).values()) == {"Cached"}
    assert digests(again) == digests(first)
    assert time.monotonic() - started < 60


def test_a_worker_killed_in_pretraining_costs_only_the_steps_since_its_checkpoint(
    first: dict[str, Any], tmp_path: Path
) -> None:
    process = start(tmp_path, CHANGES | ROWS | STEPS | {"launch.retries": 0})  # else it is started again by itself
    worker = wait_for_worker(process, tmp_path)
    worker.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "pretrain crashed" in output and "continues it from its last checkpoint" in output
    second = run(tmp_path, CHANGES | ROWS | STEPS)
    assert states(second) | {"pretrain": "Completed", "download": "Cached", "tokenizer": "Cached"} == states(second)
    assert digests(second) == digests(first)  # in another base folder, too


def wait_for_worker(process: "subprocess.Popen[str]", base: Path) -> psutil.Process:
    """Return the rank that pretrains, once it has written a checkpoint."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):  # processes come and go while we look
            for child in psutil.Process(process.pid).children(recursive=True):
                if is_pretraining_rank(child.cmdline()) and any(base.glob("artifacts/pretrain/*/checkpoints/step_*")):
                    return child
        time.sleep(0.02)
    raise TimeoutError(f"no pretraining below {process.pid}")


def is_pretraining_rank(command: list[str]) -> bool:
    starters = {"torch.distributed.run", "flows.guard"}
    return "nanochat_core.stages.pretrain" in command and not starters & set(command)


def test_a_deleted_checkpoint_runs_again_and_equal_bytes_stop_the_wave(base: Path, first: dict[str, Any]) -> None:
    folder = base / "artifacts" / first["stages"]["pretrain"]["folder"]
    manifest = read_manifest(folder)
    assert manifest is not None
    (folder / next(record.path for record in manifest.files if record.path.endswith("model.safetensors"))).unlink()
    again = run(base, CHANGES | ROWS | STEPS)
    assert {stage for stage, state in states(again).items() if state != "Cached"} == {"pretrain"}
    assert digests(again) == digests(first)


def test_another_sft_reuses_all_before_it_and_another_depth_makes_all_after_it(
    base: Path, first: dict[str, Any]
) -> None:
    other = run(base, CHANGES | ROWS | STEPS | {"sft.steps": 3})
    made = {stage for stage, state in states(other).items() if state != "Cached"}
    assert made == {"sft", "evaluate_sft", "rl", "evaluate_rl"}
    deeper = run(base, CHANGES | ROWS | STEPS | {"pretrain.model.depth": 2, "pretrain.steps": 4})
    reused = {stage for stage, state in states(deeper).items() if state == "Cached"}
    conversations = {f"conversations_{stage}" for stage in ("midtrain", "sft", "rl")}
    assert reused == {"download", "task_data", "tokenizer"} | conversations


def test_the_hub_s_data_go_through_every_stage(hub_mirror: Path, tmp_path: Path) -> None:
    """Real shards, chats and benchmarks where the mirror is there; then more shards for the same tokenizer."""
    small = {name: value for name, value in CHANGES.items() if not name.startswith("download")}
    with HubServer(hub_mirror) as hub:
        urls = {"task_data.core_bundle_url": hub.core_bundle_url, "task_data.words_url": hub.words_url}
        changes = small | urls | {"download.train_shards": 2, "evaluate.core_examples": 2}
        report = run(tmp_path / "base", changes, "--data=hub", **hub.environment(tmp_path / "hf"))
        fetched = hub.requests.copy()
        more = {"download.train_shards": 3, "launch.shard_tasks": "processes"}
        larger = run(tmp_path / "base", changes | more, "--data=hub", **hub.environment(tmp_path / "hf"))
    assert set(states(report).values()) == {"Completed"}
    assert {"download_first", "tokenizer"} < {stage for stage, state in states(larger).items() if state == "Cached"}
    again = {path for path, count in (hub.requests - fetched).items() if path.endswith(".parquet") and count}
    assert {path.rpartition("/")[2] for path in again} == {"shard_00002.parquet"}
    assert len(list((tmp_path / "base" / "tokens").glob("*/*.safetensors"))) == 3
    scores = read_json(tmp_path / "base" / "artifacts" / report["stages"]["evaluate_base"]["folder"] / "scores.json")
    assert len(scores["core"]["tasks"]) == 22
    chat = read_json(tmp_path / "base" / "artifacts" / report["stages"]["evaluate_sft"]["folder"] / "scores.json")
    tasks = {"ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee", "Identity"}
    assert set(chat["tasks"]) == tasks
