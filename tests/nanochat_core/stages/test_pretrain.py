"""What the pretraining stage refuses before it computes anything, and how it goes on from an earlier one."""

from pathlib import Path
from typing import Any

import pytest

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, read_json
from nanochat_core.errors import SpecError
from nanochat_core.specs import ModelSpec
from nanochat_core.stages.pretrain import pretrain
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, pretrain_params, refusal, runtime, tiny_model


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"steps": None, "total_batch_tokens": None}, "steps, total_batch_tokens must be given"),
        ({"model": ModelSpec(depth=1)}, "n_embd, n_head, n_kv_head must be given"),
        ({"precision": "fp8"}, "'fp8' cannot be used, a cpu device only emulates FP8; use 'bf16'"),
        ({"start_from": "pretrain/whole"}, "name that folder as the input `model`"),
    ],
)
def test_a_spec_that_is_not_whole_or_not_built_is_refused(
    changes: dict[str, Any], problem: str, bench: Workbench
) -> None:
    folder = bench.pretrain("refused", **changes)
    with pytest.raises(SpecError, match=problem):
        pretrain(StageFolder(folder))


def longer(bench: Workbench, name: str, **changes: Any) -> Path:
    params = pretrain_params(steps=4, runtime=runtime(checkpoint_every=1000), **changes)
    return bench.request("pretrain", name, params, model="pretrain/whole")


@pytest.mark.slow
def test_pretraining_goes_on_from_an_earlier_one_with_longer_rows(bench: Workbench, base_model: Path) -> None:
    folder = longer(bench, "longer", model=tiny_model(sequence_len=512), total_batch_tokens=1024)
    result = stage_folders.run(folder)
    earlier = read_json(base_model / "result.json")["metrics"]
    assert result["metrics"]["val_bpb_first"] < (earlier["val_bpb_first"] + earlier["val_bpb_last"]) / 2
    assert result["metrics"]["val_bpb_last"] < earlier["val_bpb_first"]
    assert list(result["details"]["bpb_by_position"]) == ["0", "256"]
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None
    shape = checkpoint.read_meta(last).model
    assert shape.sequence_len == 512
    assert shape.rope_base == pytest.approx(10_000 * 16 ** (16 / 14))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": tiny_model(n_embd=48)}, "model.n_embd 48, there it is 32"),
        (
            {"model": tiny_model(sequence_len=16)},
            "on rows of 32 tokens and cannot go on at a sequence_len of 16",
        ),
    ],
)
def test_pretraining_cannot_go_on_with_other_or_shorter_shapes(
    changes: dict[str, Any], problem: str, bench: Workbench, base_model: Path
) -> None:
    assert problem in refusal(longer(bench, f"not-{problem[:12]}".replace(" ", "-"), **changes))
