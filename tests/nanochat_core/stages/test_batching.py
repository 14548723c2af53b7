"""SFT with whole conversations in packed and in bucketed rows: it learns, and says how full its rows were."""

from pathlib import Path

import pytest

from nanochat_core import checkpoint
from nanochat_core.data.conversations import read_conversations
from nanochat_core.model.context import extended
from nanochat_core.specs import FinetuneSpec
from nanochat_core.training.finetune import rendered
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, finetune_params, runtime, tiny_model


@pytest.mark.parametrize("batching", ["packed", pytest.param("bucketed", marks=pytest.mark.slow)])
def test_sft_learns_from_every_conversation_in_rows_that_are_nearly_full(
    batching: str, bench: Workbench, base_model: Path
) -> None:
    params = finetune_params(batching=batching, steps=None, sequence_len=96, runtime=runtime(checkpoint_every=1000))
    folder = bench.request("sft", batching, params, model="pretrain/whole")
    metrics = stage_folders.run(folder)["metrics"]
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None and checkpoint.read_meta(last).model == extended(tiny_model(), 96)
    conversations = read_conversations(bench.root / "conversations" / "c" / "train.parquet", mask="assistant")
    assert metrics["epochs"] == 1 and metrics["cut_conversations"] == 0
    assert metrics["val_loss_last"] < metrics["val_loss_first"]
    tokens, positions = len(conversations.ids), metrics["tokens"] + metrics["rows"]  # a row's last is no input
    assert metrics["padding_share"] == pytest.approx(1 - tokens / positions, abs=1e-6)
    assert metrics["padding_share"] < 0.15  # bucketed a tenth of it; packed, four or five to a row of 97
    assert metrics["steps"] < len(conversations) / FinetuneSpec(**rendered(params)).batch_rows


@pytest.mark.slow
def test_held_out_loss_is_measured_alike_whatever_the_batching(bench: Workbench, base_model: Path) -> None:
    first = {}
    for batching in ("padded", "packed", "bucketed"):
        params = finetune_params(batching=batching, steps=1, runtime=runtime(checkpoint_every=1000))
        folder = bench.request("sft", f"{batching}-held-out", params, model="pretrain/whole")
        first[batching] = stage_folders.run(folder)["metrics"]["val_loss_first"]
    assert first["packed"] == first["bucketed"] == pytest.approx(first["padded"], rel=1e-5)
