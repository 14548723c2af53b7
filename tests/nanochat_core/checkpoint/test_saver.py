"""Checkpoints are whole or absent, whether they are written at once or in the background."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta, Saver
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
        optimizer={"w/m@0": torch.ones(2)},
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


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.rank00000.safetensors", "loader.rank00000.safetensors"]
)
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
            with pytest.raises(CheckpointError, match=r"meta\.json has other bytes|format version [37]|tokenizer"):
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


class Gate:
    """Lets a thread write only once it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened, real = threading.Event(), os.fsync

        def fsync(descriptor: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                assert self._opened.wait(30)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open()


def background(folder: Path, keep: int = 2) -> Saver:
    return Saver(folder, WORLD, keep=keep, in_background=True)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(3000):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not happen in 30 s")


def test_training_goes_on_while_a_checkpoint_is_written_and_its_tensors_are_those_of_their_step(
    tmp_path: Path, gate: Gate
) -> None:
    saver, state = background(tmp_path), moment(1)
    saver.save(state)
    state.model["w"].fill_(-1.0)  # the training goes on
    saver.poll()
    assert checkpoint.latest(tmp_path) is None
    gate.open()
    wait_until(lambda: saver.poll() or checkpoint.latest(tmp_path) is not None)
    assert torch.equal(load(checkpoint.latest(tmp_path)).model["w"], torch.ones(3, 2))
    assert not list(tmp_path.glob(".step_*"))


def test_the_next_save_and_the_end_wait_for_the_one_before(tmp_path: Path) -> None:
    saver = background(tmp_path)
    for step in (1, 2, 3):
        saver.save(moment(step))
    assert checkpoint.latest(tmp_path).name == "step_00000002"
    saver.finish()
    assert [path.name for path in checkpoint.all_checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    assert load(checkpoint.latest(tmp_path)).meta.step == 3


def test_the_bytes_do_not_depend_on_who_writes_them(tmp_path: Path) -> None:
    saver = background(tmp_path / "background")
    saver.save(moment(1))
    saver.finish()
    folders = (save(tmp_path / "at once", 1), checkpoint.latest(tmp_path / "background"))
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


@pytest.mark.parametrize("then", ["save", "poll", "finish"])
def test_an_error_of_the_thread_is_raised_at_the_next_call_and_the_one_after_saves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path, 1)
    saver = background(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saver.save(moment(2))
        saver._thread.join()
    calls = {"save": lambda: saver.save(moment(3)), "poll": saver.poll, "finish": saver.finish}
    with pytest.raises(CheckpointError, match=r"disk is full .* the last whole checkpoint is step_00000001"):
        calls[then]()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    saver.save(moment(4))
    saver.finish()
    assert checkpoint.latest(tmp_path).name == "step_00000004"


def test_an_unforeseen_error_of_the_thread_is_raised_too(tmp_path: Path) -> None:
    saver, state = background(tmp_path), moment(1)
    state.model["w"] = torch.zeros(2, dtype=torch.complex64)  # of no dtype that we write
    saver.save(state)
    with pytest.raises(CheckpointError, match="complex64"):
        saver.finish()


def test_a_folder_that_cannot_be_made_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Cannot write a checkpoint to .*there is no earlier checkpoint"):
        save(tmp_path / "file" / "checkpoints", 1)


@pytest.mark.gpu
def test_on_a_gpu_the_copies_are_of_the_moment_of_the_save_although_the_weights_change_at_once(tmp_path: Path) -> None:
    world = World(0, 1, torch.device("cuda"))
    saver, weight = Saver(tmp_path, world, keep=2), torch.ones(1 << 26, device="cuda")
    for step in (1, 2):
        saver.save(moment(step).model_copy(update={"model": {"w": weight}}))
        torch.cuda._sleep(10_000_000)
        saver.hold_updates()
        weight.add_(1)
    saver.finish()
    for step in (1, 2):
        path = tmp_path / checkpoint.folder_name(step)
        assert load(path).model["w"].unique().tolist() == [float(step)]
