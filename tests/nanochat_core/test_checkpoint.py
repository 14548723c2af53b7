"""Checkpoints are whole or absent."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError
from nanochat_core.specs import ModelSpec

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


def moment(step: int) -> Checkpoint:
    meta = CheckpointMeta(
        stage="pretrain",
        step=step,
        tokens=step * 10,
        optimizer_steps=step,
        model=ModelSpec(depth=1, n_embd=16, n_head=1, n_kv_head=1, sequence_len=16),
        vocab_size=300,
        precision="fp32",
        tokenizer_hash="a" * 64,
        data_digest="d",
    )
    return Checkpoint(
        meta=meta,
        model={"w": torch.full((3, 2), float(step))},
        optimizer={"m": torch.ones(2)},
        loader={"lane.0.tokens": torch.arange(5, dtype=torch.int32)},
    )


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(folder, moment(step), WORLD, keep=keep)


def load(path: Path, tokenizer_hash: str = "a" * 64) -> Checkpoint:
    return checkpoint.load(path, tokenizer_hash=tokenizer_hash, device=torch.device("cpu"))


def test_what_is_saved_is_loaded_and_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [path.name for path in checkpoint.all_checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    found = load(checkpoint.latest(tmp_path))
    assert found.meta.step == 3
    assert torch.equal(found.model["w"], torch.full((3, 2), 3.0))
    assert torch.equal(found.loader["lane.0.tokens"], torch.arange(5, dtype=torch.int32))


def test_an_unfinished_checkpoint_is_never_taken_for_whole(tmp_path: Path) -> None:
    save(tmp_path, 1)
    torn = tmp_path / ".step_00000002.tmp"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    (tmp_path / "step_00000003").mkdir()
    assert checkpoint.latest(tmp_path).name == "step_00000001"
    save(tmp_path, 4)
    assert not torn.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "loader.rank00000.safetensors"])
def test_a_changed_byte_anywhere_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=name):
        load(path.parent)


def test_every_byte_of_the_meta_file_counts(tmp_path: Path) -> None:
    path = save(tmp_path, 1) / "meta.json"
    data = path.read_bytes()
    for place in range(len(data)):
        for other in (data[place] ^ 1, ord(" "), ord("7")):
            if other == data[place]:
                continue
            path.write_bytes(data[:place] + bytes([other]) + data[place + 1 :])
            with pytest.raises(CheckpointError, match=r"meta\.json has other bytes|format version 7|tokenizer"):
                load(path.parent)
    path.write_bytes(data)
    assert load(path.parent).meta.step == 1


def test_a_checkpoint_that_is_half_removed_is_not_whole_and_the_next_save_sweeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_one_file_and_die(path: Path, **_: object) -> None:
        (path / "model.safetensors").unlink()
        raise KeyboardInterrupt

    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", remove_one_file_and_die)
        save(tmp_path, 2, keep=1)
    assert [path.name for path in checkpoint.all_checkpoints(tmp_path)] == ["step_00000002"]
    save(tmp_path, 3, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003"]


def test_another_tokenizer_and_a_newer_format_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="trained with the tokenizer"):
        load(path, "b" * 64)
    meta = json.loads((path / "meta.json").read_text()) | {"format_version": 99}
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="format version 99"):
        load(path)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    real, calls = os.fsync, []

    def fill_up(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:  # the second file of the checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(CheckpointError, match=r"disk is full .* the last whole checkpoint is step_00000001"):
        save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001"]
    assert load(checkpoint.latest(tmp_path)).meta.step == 1
