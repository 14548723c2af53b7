"""Evaluators in real training processes: on two ranks, killed, terminated."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.artifacts import read_json
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.metrics import read_metrics
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, final_bytes, finetune_params, start
from tests.nanochat_core.stages.test_kill import kill_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHAT = EvaluatorSpec(name="chatcore", every=10, tasks=("Facts", "Arithmetic"), examples=150, max_new_tokens=12)


@pytest.fixture(scope="module")
def data(bench: Workbench) -> str:
    """Task data without a data set: these tasks are generated."""
    folder = bench.root / "task_data" / "none"
    folder.mkdir(parents=True)
    (folder / "index.json").write_text(json.dumps({"datasets": {}}))
    return "task_data/none"


def sft(bench: Workbench, base_model: Path, name: str, *, data: str = "", **changes: Any) -> Path:
    inputs = {"model": f"pretrain/{base_model.name}"} | ({"task_data": data} if data else {})
    return bench.request("sft", name, finetune_params(**changes), **inputs)


@pytest.fixture(scope="module")
def measured(bench: Workbench, base_model: Path, data: str) -> Path:
    """A fine-tuning of 20 steps that was measured at 0, 10 and 20."""
    folder = sft(bench, base_model, "measured", data=data, evaluators=(CHAT,))
    stage_folders.run(folder)
    return folder


def curve(folder: Path, name: str = "eval/chatcore") -> dict[int, float]:
    return {line["step"]: line[name] for line in read_metrics(folder / "metrics.jsonl") if name in line}


def is_evaluating(folder: Path, step: int) -> bool:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return any(f'"step": {step},' in line and "evaluating" in line for line in lines)


def test_a_measured_stage_ends_with_the_bytes_of_one_that_is_not(
    bench: Workbench, base_model: Path, measured: Path
) -> None:
    plain = sft(bench, base_model, "plain")
    stage_folders.run(plain)
    assert final_bytes(plain) == final_bytes(measured)
    assert list(curve(measured)) == [0, 10, 20]


def test_two_ranks_measure_what_one_does(bench: Workbench, base_model: Path, data: str, measured: Path) -> None:
    folder = sft(bench, base_model, "two ranks", data=data, evaluators=(CHAT,))
    stage_folders.run(folder, ranks=2)
    for task in CHAT.tasks or ():
        name = f"eval/{task}/accuracy"
        assert curve(folder, name)[0] == curve(measured, name)[0]
    assert list(curve(folder)) == [0, 10, 20]


def test_killed_in_a_measurement_it_ends_with_the_same_bytes_and_curves(
    bench: Workbench, base_model: Path, data: str, measured: Path
) -> None:
    folder = sft(bench, base_model, "killed in a measurement", data=data, evaluators=(CHAT,))
    assert kill_at(folder, lambda: is_evaluating(folder, 10))
    assert 10 not in curve(folder)
    stage_folders.run(folder)
    assert final_bytes(folder) == final_bytes(measured)
    assert curve(folder) == curve(measured)


@pytest.mark.parametrize("ranks", [1, 2])
def test_terminated_in_a_measurement_it_saves_at_once_and_measures_later(
    ranks: int, bench: Workbench, base_model: Path, data: str
) -> None:
    long = CHAT.model_copy(update={"examples": 5000, "tasks": ("Arithmetic",)})  # a minute, if nothing ended it
    changes = {"runtime": stage_folders.runtime(checkpoint_every=1000), "data": data}
    folder = sft(bench, base_model, f"terminated {ranks}", evaluators=(long,), **changes)
    process, deadline = start(folder, ranks), time.monotonic() + 120
    while not is_evaluating(folder, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert read_json(folder / "exit.json")["code"] == 75
    assert [path.name for path in (folder / "checkpoints").glob("step_*")] == ["step_00000000"]
    sft(bench, base_model, f"terminated {ranks}", evaluators=(CHAT,), **changes)  # another evaluator: same stage
    stage_folders.run(folder, ranks)
    assert list(curve(folder)) == [0, 10, 20] and list(curve(folder, "val/loss")) == [0, 10, 20]
