"""Two ranks compute what one computes, and any number of ranks goes on from the checkpoint of any other."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanochat_core.artifacts import read_json
from nanochat_core.metrics import read_metrics
from nanochat_core.specs import Arch
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, final_bytes, finetune_params, rl_params


def bpb_of(folder: Path) -> float:
    return read_json(folder / "result.json")["metrics"]["val_bpb_last"]


def wait_for_line(folder: Path, number: int) -> None:
    """Wait until the stage has written so many lines of metrics."""
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 60
    while not (path.exists() and len(path.read_bytes().splitlines()) >= number) and time.monotonic() < deadline:
        time.sleep(0.002)


def ranks_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "nanochat_core.stages.pretrain" in child.cmdline()]


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


def test_two_ranks_give_the_losses_and_the_bpb_of_one_over_fifty_steps(bench: Workbench, base_model: Path) -> None:
    folder = bench.pretrain("two-ranks")
    result = stage_folders.run(folder, ranks=2)
    assert len(losses(base_model)) == 50
    assert losses(folder) == pytest.approx(losses(base_model), rel=1e-4)
    assert result["metrics"]["val_bpb_last"] == pytest.approx(bpb_of(base_model), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "params"),
    [
        ("midtrain", finetune_params(batching="stream", mask="none", batch_rows=4, steps=10)),
        ("sft", finetune_params(steps=10)),
        ("sft", finetune_params(steps=10, batching="packed")),
        ("sft", finetune_params(steps=10, batching="bucketed")),
    ],
    ids=["stream", "padded", "packed", "bucketed"],
)
def test_two_ranks_give_the_losses_of_one_on_conversations(
    stage: str, params: dict[str, Any], bench: Workbench, base_model: Path
) -> None:
    names = {ranks: f"{params['batching']}-ranks-{ranks}" for ranks in (1, 2)}
    one, two = (bench.request(stage, name, params, model="pretrain/whole") for name in names.values())
    results = [stage_folders.run(folder, ranks) for folder, ranks in ((one, 1), (two, 2))]
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert results[1]["metrics"]["val_loss_last"] == pytest.approx(results[0]["metrics"]["val_loss_last"], rel=1e-3)


@pytest.mark.slow
def test_two_ranks_answer_the_same_questions_before_and_learn_from_all_of_them(
    bench: Workbench, base_model: Path
) -> None:
    one, two = (bench.request("rl", f"ranks-{ranks}", rl_params(steps=3), model="pretrain/whole") for ranks in (1, 2))
    results = [stage_folders.run(folder, ranks) for folder, ranks in ((one, 1), (two, 2))]
    records = [(folder / "records" / "before.jsonl").read_text() for folder in (one, two)]
    assert records[0] == records[1]
    first = [read_metrics(folder / "metrics.jsonl")[1] for folder in (one, two)]
    assert [line["step"] for line in first] == [1, 1]
    assert first[1]["rl/reward"] == first[0]["rl/reward"]
    assert first[1]["train/loss"] == pytest.approx(first[0]["train/loss"], rel=1e-4)
    assert all(result["metrics"]["steps"] == 3 for result in results)


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_end_with_the_bytes_of_two_that_were_not(bench: Workbench) -> None:
    whole, folder = bench.pretrain("two-whole"), bench.pretrain("two-killed")
    stage_folders.run(whole, ranks=2)
    process = stage_folders.start(folder, ranks=2)
    wait_for_line(folder, 13)
    ranks_of(process)[-1].kill()
    process.communicate(timeout=60)
    assert process.returncode not in (0, 75)
    assert not (folder / "exit.json").exists()
    stage_folders.run(folder, ranks=2)
    assert final_bytes(folder) == final_bytes(whole)


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_on_all_ranks_and_one_rank_goes_on(bench: Workbench, base_model: Path) -> None:
    folder = bench.pretrain("two-terminated", runtime_changes={"checkpoint_every": 1000})
    process = stage_folders.start(folder, ranks=2)
    wait_for_line(folder, 6)
    process.terminate()
    process.communicate(timeout=60)
    assert read_json(folder / "exit.json")["code"] == 75
    (saved,) = (folder / "checkpoints").glob("step_*")
    assert sorted(path.name for path in saved.glob("loader.*")) == [f"loader.rank{n:05d}.safetensors" for n in (0, 1)]
    stage_folders.run(folder, ranks=1)
    assert losses(folder) == pytest.approx(losses(base_model), rel=1e-4)
    assert read_metrics(folder / "metrics.jsonl")[-1]["attempt"] == 2


def unfinished_copy(folder: Path, name: str, last: int) -> Path:
    """Return a copy of a finished stage as it was after its step `last`, of which there is a checkpoint."""
    copy = folder.with_name(name)
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name != f"step_{last:08d}":
            shutil.rmtree(path)
    (copy / "result.json").unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= last))
    return copy


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_a_checkpoint_of_four_ranks_goes_on_with_the_same_losses_on_one_and_on_three(
    bench: Workbench, arch: Arch
) -> None:
    model = stage_folders.tiny_model(arch=arch, depth=2, n_kv_head=1)
    four = bench.pretrain(f"four-{arch}", steps=12, packing="best_fit", model=model)
    stage_folders.run(four, ranks=4)
    saved = four / "checkpoints" / "step_00000010"
    assert len(list(saved.glob("optimizer.rank*"))) == len(list(saved.glob("loader.rank*"))) == 4
    for ranks in (1, 3):
        again = unfinished_copy(four, f"four-{arch}-on-{ranks}", 10)
        stage_folders.run(again, ranks=ranks)
        assert losses(again)[10] == pytest.approx(losses(four)[10], rel=1e-5)
        assert losses(again) == pytest.approx(losses(four), rel=1e-4)
