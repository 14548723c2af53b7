"""DPO and the reward model as processes: they learn, go on after a kill, and count or refuse what they cannot learn."""

import math
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.metrics import read_metrics
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.pair_folders import measured, request, sums, write_preferences
from tests.nanochat_core.stages.stage_folders import Workbench, final_bytes, rl_params, runtime
from tests.nanochat_core.stages.test_kill import has_metrics, is_saving, kill_at

STAGES = ("dpo", "reward_model")


@pytest.fixture(scope="module")
def paired(bench: Workbench, base_model: Path) -> Workbench:
    """The bench with pairs of answers."""
    write_preferences(bench, "p", sums(120, 1), sums(30, 2))
    return bench


@pytest.mark.parametrize("stage", STAGES)
def test_held_out_pairs_are_ranked_right_in_the_end(stage: str, paired: Workbench) -> None:
    folder = request(paired, stage, "learns")
    found = stage_folders.run(folder)["metrics"]
    assert found["val_loss_first"] == pytest.approx(math.log(2), rel=1e-4), "it begins by finding all answers equal"
    assert found["val_margin_low"] > 0.01 and found["val_accuracy_low"] > 0.7
    assert found["val_loss_last"] < found["val_loss_first"]
    assert found["pairs"] == 120 and found["held_out_pairs"] == 30 and found["too_long_pairs"] == 0
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "val/margin" in line] == [0, 6, 12]
    assert all("train/accuracy" in line and "train/margin" in line for line in lines[1:])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("stage", STAGES)
def test_kills_between_steps_and_inside_a_save_change_nothing(stage: str, paired: Workbench) -> None:
    whole, killed = request(paired, stage, "whole"), request(paired, stage, "killed")
    stage_folders.run(whole)
    assert kill_at(killed, lambda: has_metrics(killed, 4))
    kept = [path.read_bytes() for path in killed.glob("reference-*")]
    assert len(kept) == (stage == "dpo")
    assert kill_at(killed, lambda: is_saving(killed))
    stage_folders.run(killed)
    assert final_bytes(killed) == final_bytes(whole)
    assert measured(killed) == measured(whole)
    assert [path.read_bytes() for path in killed.glob("reference-*")] == kept


@pytest.mark.slow
def test_a_reference_that_is_damaged_is_computed_anew(paired: Workbench) -> None:
    whole, damaged = request(paired, "dpo", "sound"), request(paired, "dpo", "damaged")
    stage_folders.run(whole)
    (reference,) = whole.glob("reference-*")
    (damaged / reference.name).write_bytes(reference.read_bytes()[:-9])
    stage_folders.run(damaged)
    assert final_bytes(damaged) == final_bytes(whole)
    assert (damaged / reference.name).read_bytes() == reference.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_what_one_learns(stage: str, paired: Workbench) -> None:
    folders = [request(paired, stage, f"ranks-{ranks}", batch_pairs=7, steps=6) for ranks in (1, 2)]
    one, two = (stage_folders.run(folder, ranks)["metrics"] for ranks, folder in enumerate(folders, start=1))
    losses = [
        [line["train/loss"] for line in read_metrics(f / "metrics.jsonl") if "train/loss" in line] for f in folders
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two == pytest.approx(one, rel=1e-3)


def pleasing(paired: Workbench, name: str, **changes: Any) -> Path:
    """Return the folder of an RL that pleases the bench's reward model and asks again where answers are alike."""
    judge = request(paired, "reward_model", "judge")
    if not (judge / "result.json").exists():
        stage_folders.run(judge)
    params = rl_params(reward="preference", refill_rounds=2, **changes)
    return paired.request("rl", name, params, model="pretrain/whole", reward_model="reward_model/judge")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rl_on_a_reward_model_ends_alike_after_kills(paired: Workbench) -> None:
    whole, killed = pleasing(paired, "pleased"), pleasing(paired, "pleased-killed")
    stage_folders.run(whole)
    assert kill_at(killed, lambda: has_metrics(killed, 4))
    assert kill_at(killed, lambda: is_saving(killed))
    stage_folders.run(killed)
    assert final_bytes(killed) == final_bytes(whole)
    assert measured(killed) == measured(whole)


@pytest.mark.slow
def test_rl_on_a_reward_model_is_the_same_on_two_ranks(paired: Workbench) -> None:
    one, two = (pleasing(paired, f"pleased-{ranks}", steps=3) for ranks in (1, 2))
    for ranks, folder in enumerate((one, two), start=1):
        stage_folders.run(folder, ranks)
    first, second = (
        [line for line in read_metrics(folder / "metrics.jsonl") if "rl/reward" in line] for folder in (one, two)
    )
    assert second[0]["rl/reward"] == pytest.approx(first[0]["rl/reward"], rel=1e-5)
    assert [line["rl/questions"] for line in second] == [line["rl/questions"] for line in first]
    assert second[0]["train/loss"] == pytest.approx(first[0]["train/loss"], rel=1e-4)


def odd(text: str, other: str = "no") -> dict[str, Any]:
    return {"prompt": "so?", "chosen": text, "rejected": other}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_odd_is_learned_without_a_nan_and_what_is_too_long_is_counted(stage: str, paired: Workbench) -> None:
    rows = [odd(""), odd("yes", ""), odd("a" * 10_000), odd("same", "same")]
    name = write_preferences(paired, f"odd-{stage}", rows, [odd("yes"), odd("b" * 10_000)])
    folder = request(
        paired, stage, "odd", name, batch_pairs=1, steps=4, runtime=runtime(device_batch_size=1, checkpoint_every=2)
    )
    found = stage_folders.run(folder)["metrics"]
    assert all(math.isfinite(value) for value in found.values())
    assert (found["pairs"], found["held_out_pairs"], found["too_long_pairs"]) == (3, 1, 2)


@pytest.mark.slow
def test_one_pair_is_enough_to_train_on_and_pairs_that_are_all_too_long_are_not(paired: Workbench) -> None:
    one = write_preferences(paired, "one", [odd("yes")], [odd("yes")])
    assert stage_folders.run(request(paired, "dpo", "one", one, steps=2))["metrics"]["pairs"] == 1
    long = write_preferences(paired, "long", [odd("a" * 500)], [odd("yes")])
    line = stage_folders.refusal(request(paired, "dpo", "long", long))
    assert "none of its 1 pairs fits rows of 32 tokens" in line and "raise sequence_len" in line
