"""Bad input ends in one line that names it and says what to do, with exit code 2 and no traceback."""

import json
import shutil
from pathlib import Path

import pytest

from nanochat_core.tokenizer.bpe import Tokenizer
from tests.nanochat_core.stages.stage_folders import Workbench, documents, finetune_params, refusal, rl_params


def copy_of(folder: Path, name: str) -> Path:
    copy = folder.with_name(name)
    shutil.copytree(folder, copy)
    return copy


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_model_with_a_changed_byte_is_refused_by_name(bench: Workbench, base_model: Path) -> None:
    damaged = copy_of(base_model, "damaged-model")
    change_a_byte(damaged / "checkpoints" / "step_00000030" / "model.safetensors")
    folder = bench.request("sft", "damaged", finetune_params(), model="pretrain/damaged-model")
    line = refusal(folder)
    assert "damaged-model/checkpoints/step_00000030/model.safetensors has other bytes" in line
    assert "run its stage again" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "optimizer", "loader.rank00000"])
def test_a_resume_from_a_changed_file_is_refused_by_name(name: str, bench: Workbench, base_model: Path) -> None:
    folder = copy_of(base_model, f"damaged-{name}")
    change_a_byte(folder / "checkpoints" / "step_00000030" / f"{name}.safetensors")
    assert f"{name}.safetensors has other bytes" in refusal(folder)


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
    folder = bench.request("pretrain", "corrupt", json.loads((bench.pretrain("p") / "spec.json").read_text())["params"])
    spec = json.loads((folder / "spec.json").read_text())
    spec["inputs"]["text"] = "download/corrupt"
    (folder / "spec.json").write_text(json.dumps(spec))
    assert "shard_00000.parquet" in refusal(folder)


@pytest.mark.slow
def test_an_unknown_reward_is_refused_with_the_nearest_name(bench: Workbench, base_model: Path) -> None:
    folder = bench.request("rl", "unknown-reward", rl_params(reward="answr"), model="pretrain/whole")
    assert "unknown reward 'answr' (did you mean 'answer'?)" in refusal(folder)


def test_an_unknown_field_is_refused_by_name(bench: Workbench) -> None:
    folder = bench.pretrain("unknown-field")
    spec = json.loads((folder / "spec.json").read_text())
    spec["params"]["lernrate"] = 1
    (folder / "spec.json").write_text(json.dumps(spec))
    assert "unknown field lernrate" in refusal(folder)
