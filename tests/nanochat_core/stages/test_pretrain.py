"""What the pretraining stage refuses before it computes anything."""

from typing import Any

import pytest

from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import SpecError
from nanochat_core.specs import ModelSpec
from nanochat_core.stages.pretrain import pretrain
from tests.nanochat_core.stages.stage_folders import Workbench


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"steps": None, "total_batch_tokens": None}, "steps, total_batch_tokens must be given"),
        ({"model": ModelSpec(depth=1)}, "n_embd, n_head, n_kv_head must be given"),
        ({"precision": "fp8"}, "precision 'fp8' is not built yet"),
    ],
)
def test_a_spec_that_is_not_whole_or_not_built_is_refused(
    changes: dict[str, Any], problem: str, bench: Workbench
) -> None:
    folder = bench.pretrain("refused", **changes)
    with pytest.raises(SpecError, match=problem):
        pretrain(StageFolder(folder))
