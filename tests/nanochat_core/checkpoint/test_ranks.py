"""Ranks save together and load apart: any number what any other number has saved, and what stops one stops all."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.checkpoint import Saver
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import Arch, ModelSpec
from tests.nanochat_core.checkpoint.peers import on_ranks
from tests.nanochat_core.checkpoint.test_saver import load, moment

CPU = torch.device("cpu")


def model_of(arch: Arch) -> GPT:
    model = GPT(ModelSpec(arch=arch, depth=3, n_embd=48, n_head=2, n_kv_head=1, sequence_len=16), 70)
    init_weights(model, 0)
    return model


def optimizer_of(model: GPT, rank: int = 0, size: int = 1) -> MuonAdamW:
    return MuonAdamW(model, World(rank, size, CPU))


@pytest.mark.parametrize("arch", ["classic", "full"])
@pytest.mark.parametrize("in_background", [False, True])
def test_what_four_ranks_save_is_loaded_by_one_and_by_three(tmp_path: Path, arch: Arch, in_background: bool) -> None:
    model = model_of(arch)
    whole = optimizer_of(model)
    for number, tensor in enumerate(whole.pieces().values()):
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
    expected = whole.pieces()

    def write(world: World) -> None:
        own = optimizer_of(model, world.rank, world.size)
        own.load(expected, 7)
        saver = Saver(tmp_path, world, keep=1, in_background=in_background)
        saver.save(
            moment(7).model_copy(
                update={"optimizer": own.pieces(), "loader": {f"lane.{world.rank}": torch.tensor([world.rank])}}
            )
        )
        saver.finish()

    assert on_ranks(4, write) == [None] * 4
    found = load(checkpoint.latest(tmp_path))
    assert sorted(found.loader) == [f"lane.{rank}" for rank in range(4)]
    parts = sum(len(optimizer_of(model, rank, 4).pieces()) for rank in range(4))
    assert len(found.optimizer) == parts > len(expected)
    for size in (1, 3):
        for rank in range(size):
            again = optimizer_of(model, rank, size)
            again.load(found.optimizer, found.meta.optimizer_steps)
            assert again.step_count == 7
            for name, tensor in again.pieces().items():
                parameter, first = name.split("@")
                rows = expected[f"{parameter}@0"][int(first) : int(first) + len(tensor)]
                assert torch.equal(tensor, rows), f"{name} of rank {rank} of {size}"


def test_a_rank_whose_disk_is_full_stops_all_ranks_and_the_earlier_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_on(world: World) -> None:
        Saver(tmp_path, world, keep=2, in_background=False).save(moment(step))

    step = 1
    assert on_ranks(3, save_on) == [None] * 3
    step, real = 2, os.fsync

    def fill_up(descriptor: int) -> None:
        if "rank00001" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    errors = on_ranks(3, save_on)
    assert all(isinstance(error, CheckpointError) and "disk is full" in str(error) for error in errors)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_ranks_commit_after_the_same_step_once_the_slowest_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_may_go, real = threading.Event(), os.fsync

    def fsync(descriptor: int) -> None:
        if "rank00002" in os.readlink(f"/proc/self/fd/{descriptor}"):
            assert slow_may_go.wait(30)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    def train(world: World) -> int:
        saver = Saver(tmp_path, world, keep=2, in_background=True)
        saver.save(moment(1))
        for step in range(2, 1000):
            if step == 5 and world.is_main:
                assert checkpoint.latest(tmp_path) is None
                slow_may_go.set()
            saver.poll()
            if saver._meta is None:
                return step
            world.barrier()
            threading.Event().wait(0.005)
        return 0

    ends = on_ranks(3, train)
    assert len(set(ends)) == 1 and ends[0] >= 5, ends
    assert load(checkpoint.latest(tmp_path)).meta.step == 1
