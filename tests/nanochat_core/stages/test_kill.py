"""kill -9 at any moment costs nothing but time: the same command again ends with the same bytes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.artifacts import read_json
from nanochat_core.metrics import read_metrics
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import STEPS, Workbench, final_bytes, finetune_params, rl_params, start


def wait_for(is_time: Callable[[], bool], process: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_time() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)


def is_saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".step_*.tmp"))


def has_metrics(folder: Path, count: int) -> bool:
    path = folder / "metrics.jsonl"
    return path.exists() and len(path.read_bytes().splitlines()) >= count


def kill_at(folder: Path, is_time: Callable[[], bool], delay: float = 0.0) -> bool:
    """Start the stage, kill it with -9 once it is time and `delay` seconds later; True where it was still running."""
    process = start(folder)
    wait_for(is_time, process)
    time.sleep(delay)
    was_running = process.poll() is None
    process.kill()
    process.communicate()
    return was_running


@pytest.mark.slow
def test_pretraining_killed_between_steps_and_inside_a_save_ends_with_the_same_bytes(
    bench: Workbench, base_model: Path
) -> None:
    folder = bench.pretrain("killed")
    assert kill_at(folder, lambda: has_metrics(folder, 13))
    assert kill_at(folder, lambda: is_saving(folder))
    stage_folders.run(folder)
    assert final_bytes(folder) == final_bytes(base_model)
    assert not is_saving(folder)
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl")]
    assert steps == list(range(STEPS + 1))
    assert read_metrics(folder / "metrics.jsonl")[-1]["attempt"] == 3


@pytest.mark.slow
def test_pretraining_packed_best_fit_and_killed_goes_on_from_documents_that_were_waiting(bench: Workbench) -> None:
    whole, killed = (bench.pretrain(name, packing="best_fit") for name in ("whole-best-fit", "killed-best-fit"))
    stage_folders.run(whole)
    assert kill_at(killed, lambda: has_metrics(killed, 13))
    stage_folders.run(killed)
    assert final_bytes(killed) == final_bytes(whole)
    metrics = [read_json(folder / "result.json")["metrics"] for folder in (whole, killed)]
    packed = ("documents_read", "cut_documents", "long_documents", "wasted_token_share", "row_utilisation")
    assert [metrics[0][name] for name in packed] == [metrics[1][name] for name in packed]
    assert metrics[0]["wasted_token_share"] == 0 and metrics[0]["cut_documents"] > 0


def test_sigterm_saves_and_ends_with_75_and_the_run_goes_on_from_there(bench: Workbench, base_model: Path) -> None:
    folder = bench.pretrain("terminated", runtime_changes={"checkpoint_every": 1000})
    process = start(folder)
    wait_for(lambda: has_metrics(folder, 6), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert read_json(folder / "exit.json")["code"] == 75
    assert len(list((folder / "checkpoints").glob("step_*"))) == 1
    stage_folders.run(folder)
    assert final_bytes(folder) == final_bytes(base_model)


def requests(bench: Workbench, base_model: Path) -> dict[str, Callable[[str], Path]]:
    model = f"pretrain/{base_model.name}"
    return {
        "pretrain": bench.pretrain,
        "midtrain": lambda name: bench.request(
            "midtrain", name, finetune_params(batching="stream", mask="none"), model=model
        ),
        "sft": lambda name: bench.request("sft", name, finetune_params(), model=model),
        "rl": lambda name: bench.request("rl", name, rl_params(), model=model),
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["pretrain", "midtrain", "sft", "rl"])
def test_ten_kills_at_random_instants_change_nothing(stage: str, bench: Workbench, base_model: Path) -> None:
    request = requests(bench, base_model)[stage]
    whole = request("whole-for-kills")
    stage_folders.run(whole)
    folder, rng, kills = request("killed-ten-times"), random.Random(stage), 0
    torn = 0
    while kills < 10:
        if (folder / "result.json").exists():  # ended before enough kills: start anew, the count goes on
            assert final_bytes(folder) == final_bytes(whole)
            folder = request(f"killed-ten-times-{kills}")
        if kills % 3 == 0:
            kills += kill_at(folder, lambda at=folder: is_saving(at))
            torn += is_saving(folder)
        else:
            lines = len((folder / "metrics.jsonl").read_bytes().splitlines()) if has_metrics(folder, 1) else 0
            kills += kill_at(folder, lambda at=folder, n=lines: has_metrics(at, n + 1), delay=rng.uniform(0, 0.15))
    assert torn, "no kill was inside a save"
    stage_folders.run(folder)
    assert final_bytes(folder) == final_bytes(whole)
