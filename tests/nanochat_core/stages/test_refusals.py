"""Bad input ends in one line that names it and says what to do, with exit code 2 and no traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nanochat_core.artifacts import read_json
from nanochat_core.tokenizer.bpe import Tokenizer
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import (
    STEPS,
    Workbench,
    documents,
    final_bytes,
    finetune_params,
    pretrain_params,
    refusal,
    rl_params,
)

LAST = f"checkpoints/step_{STEPS:08d}"


def copy_of(folder: Path, name: str) -> Path:
    copy = folder.with_name(name)
    shutil.copytree(folder, copy)
    return copy


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def change_request(folder: Path, group: str, **changes: Any) -> None:
    """Change fields of one group of a folder's spec.json."""
    request = read_json(folder / "spec.json")
    (folder / "spec.json").write_text(json.dumps(request | {group: request[group] | changes}))


def test_a_model_with_a_changed_byte_is_refused_by_name(bench: Workbench, base_model: Path) -> None:
    damaged = copy_of(base_model, "damaged-model")
    change_a_byte(damaged / LAST / "model.safetensors")
    folder = bench.request("sft", "damaged", finetune_params(), model="pretrain/damaged-model")
    line = refusal(folder)
    assert f"damaged-model/{LAST}/model.safetensors has other bytes" in line
    assert "run its stage again" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.rank00000.safetensors", "loader.rank00000.safetensors", "meta.json"]
)
def test_a_resume_from_a_changed_file_is_refused_by_name(name: str, bench: Workbench, base_model: Path) -> None:
    folder = copy_of(base_model, f"damaged-{name}")
    change_a_byte(folder / LAST / name)
    assert f"{LAST}/{name} has other bytes" in refusal(folder)


@pytest.mark.slow
def test_a_file_that_cannot_grow_ends_a_save_in_one_line_and_the_earlier_checkpoint_goes_on(
    bench: Workbench, base_model: Path
) -> None:
    folder = copy_of(base_model, "full-disk")
    (folder / "result.json").unlink()
    shutil.rmtree(folder / LAST)
    line = refusal(folder, largest_file=50_000)
    assert "Cannot write a checkpoint" in line
    assert "the last whole checkpoint is step_00000045" in line
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000045"]
    assert not (folder / "result.json").exists()
    stage_folders.run(folder)
    assert final_bytes(folder) == final_bytes(base_model)


@pytest.mark.slow
def test_a_checkpoint_of_other_data_is_refused(bench: Workbench, base_model: Path) -> None:
    folder = copy_of(base_model, "other-data")
    change_request(folder, "input_digests", text="another digest")
    assert "belongs to another run (data_digest" in refusal(folder)


def test_a_model_is_refused_with_another_tokenizer(bench: Workbench, base_model: Path) -> None:
    other = bench.root / "tokenizer" / "other"
    other.mkdir()
    Tokenizer.train(documents(600, 7), 310).save(other)
    folder = bench.request(
        "sft", "other-tokenizer", finetune_params(), model="pretrain/whole", tokenizer="tokenizer/other"
    )
    assert "was trained with the tokenizer" in refusal(folder)


@pytest.mark.slow
def test_a_corrupt_shard_is_refused_by_name(bench: Workbench) -> None:
    text = copy_of(bench.root / "download" / "text", "corrupt")
    (text / "shards" / "shard_00000.parquet").write_bytes(b"no parquet")
    folder = bench.request("pretrain", "corrupt", pretrain_params(), text="download/corrupt")
    assert "shard_00000.parquet is no readable parquet file" in refusal(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "params", "empty"), [("sft", finetune_params(), "validation"), ("rl", rl_params(), "train")]
)
def test_an_empty_conversations_file_is_refused_by_name(
    stage: str, params: dict[str, Any], empty: str, bench: Workbench, base_model: Path
) -> None:
    folder = copy_of(bench.root / "conversations" / "c", f"empty-{empty}")
    path = folder / f"{empty}.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    request = bench.request(
        stage, "empty", params, model="pretrain/whole", conversations=f"conversations/{folder.name}"
    )
    assert f"{empty}.parquet has no rows" in refusal(request)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_corrupt_conversations_file_is_refused_by_name(name: str, bench: Workbench, base_model: Path) -> None:
    folder = copy_of(bench.root / "conversations" / "c", f"corrupt-{name}")
    (folder / f"{name}.parquet").write_bytes(b"PAR1 no parquet PAR1")
    request = bench.request(
        "rl", f"corrupt-{name}", rl_params(), model="pretrain/whole", conversations=f"conversations/{folder.name}"
    )
    assert f"{name}.parquet is no readable parquet file" in refusal(request)


@pytest.mark.slow
def test_an_unknown_reward_is_refused_with_the_nearest_name(bench: Workbench, base_model: Path) -> None:
    folder = bench.request("rl", "unknown-reward", rl_params(reward="answr"), model="pretrain/whole")
    assert "unknown reward 'answr' (did you mean 'answer'?)" in refusal(folder)


def test_an_unknown_field_is_refused_by_name(bench: Workbench) -> None:
    folder = bench.pretrain("unknown-field")
    change_request(folder, "params", lernrate=1)
    assert "unknown field lernrate" in refusal(folder)
