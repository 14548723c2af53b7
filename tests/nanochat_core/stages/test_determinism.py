"""Equal seeds give equal bytes."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from nanochat_core.artifacts import StageFolder, finish
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, final_bytes, finetune_params, rl_params


def digest(folder: Path) -> str:
    return finish(StageFolder(folder)).digest


@pytest.mark.slow
def test_pretraining_on_tokens_made_on_the_fly_has_the_digest_of_that_on_cached_ones(
    bench: Workbench, base_model: Path
) -> None:
    assert list((bench.root.parent / "tokens").rglob("*.safetensors"))
    again = bench.pretrain("again", runtime_changes={"tokens": "on_the_fly", "encoding_workers": 1})
    stage_folders.run(again)
    assert digest(again) == digest(base_model)


@pytest.mark.slow
def test_another_seed_has_another_digest(bench: Workbench, base_model: Path) -> None:
    other = bench.pretrain("other-seed", seed=43)
    stage_folders.run(other)
    assert digest(other) != digest(base_model)


@pytest.mark.slow
def test_the_size_of_a_micro_batch_changes_the_weights_by_rounding_only(bench: Workbench, base_model: Path) -> None:
    small = bench.pretrain("small-micro-batch", runtime_changes={"device_batch_size": 2})
    stage_folders.run(small)
    weights = [load(final_bytes(folder)["model.safetensors"]) for folder in (small, base_model)]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).norm() < 1e-2 * tensor.norm()


@pytest.mark.parametrize(
    ("stage", "params"),
    [
        pytest.param(
            "midtrain", finetune_params(batching="stream", mask="none", batch_rows=4, steps=6), marks=pytest.mark.slow
        ),
        pytest.param("sft", finetune_params(steps=6), marks=pytest.mark.slow),
        ("rl", rl_params(steps=3)),
    ],
)
def test_two_runs_of_a_chat_stage_have_equal_digests(
    stage: str, params: dict[str, Any], bench: Workbench, base_model: Path
) -> None:
    folders = [bench.request(stage, name, params, model="pretrain/whole") for name in ("first", "second")]
    for folder in folders:
        stage_folders.run(folder)
    assert digest(folders[0]) == digest(folders[1])
