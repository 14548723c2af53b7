"""Two ranks compute what one computes."""

from pathlib import Path

import pytest

from nanochat_core.metrics import read_metrics
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


def test_two_ranks_give_the_losses_and_the_bpb_of_one_over_fifty_steps(bench: Workbench) -> None:
    one, two = bench.pretrain("one-rank", steps=50), bench.pretrain("two-ranks", steps=50)
    bpb = [stage_folders.run(folder, ranks)["metrics"]["val_bpb_last"] for folder, ranks in ((one, 1), (two, 2))]
    assert len(losses(one)) == 50
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert bpb[1] == pytest.approx(bpb[0], rel=0.01)


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_goes_on_with_one(bench: Workbench, base_model: Path) -> None:
    folder = bench.pretrain("two-then-one", steps=15)
    stage_folders.run(folder, ranks=2)
    bench.pretrain("two-then-one", steps=30)
    stage_folders.run(folder, ranks=1)
    assert losses(folder)[:10] == pytest.approx(losses(base_model)[:10], rel=1e-4)
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")][-1] == 30
