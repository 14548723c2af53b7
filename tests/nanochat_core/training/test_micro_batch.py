"""How many rows go through the model at a time."""

import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.model.accounting import derive_shape
from nanochat_core.model.memory import training_memory
from nanochat_core.specs import ModelSpec
from nanochat_core.training import micro_batch
from nanochat_core.training.micro_batch import device_memory, rows_at_a_time

WORLD = World(0, 1, torch.device("cpu"))
MODEL = derive_shape(ModelSpec(depth=4, sequence_len=256))


def needed(rows: int) -> int:
    return training_memory(MODEL, 2048, micro_rows=rows, precision="fp32", is_cuda=False).total


@pytest.mark.parametrize(("memory", "expected"), [(needed(64), 32), (needed(16), 8), (needed(8), 4), (1, 1)])
def test_it_is_what_fits_and_on_a_cpu_no_more_than_is_of_use(
    memory: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "device_memory", lambda device: memory)
    assert rows_at_a_time(MODEL, 2048, "fp32", 128, WORLD) == expected


@pytest.mark.parametrize(("rows", "expected"), [(8, 8), (24, 24), (33, 17), (43, 22), (1, 1)])
def test_pieces_are_even(rows: int, expected: int) -> None:
    assert rows_at_a_time(MODEL, 2048, "fp32", rows, WORLD) == expected


def test_ranks_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = device_memory(WORLD.device)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert device_memory(WORLD.device) == alone // 4
