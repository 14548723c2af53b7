"""Equal seeds give equal bytes."""

from pathlib import Path
from typing import Any

import pytest

from nanochat_core.artifacts import StageFolder, finish
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, finetune_params, rl_params


def digest(folder: Path) -> str:
    return finish(StageFolder(folder)).digest


def test_two_pretrainings_with_one_seed_have_equal_digests_and_another_seed_has_not(
    bench: Workbench, base_model: Path
) -> None:
    again, other = bench.pretrain("again"), bench.pretrain("other-seed", seed=43)
    for folder in (again, other):
        stage_folders.run(folder)
    assert digest(again) == digest(base_model)
    assert digest(other) != digest(base_model)


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
