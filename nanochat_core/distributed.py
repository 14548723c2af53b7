"""The ranks of one stage, as torchrun started them: NCCL on CUDA, gloo elsewhere; without torchrun, one rank.

Nothing that travels between ranks is pickled: tensors only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat_core.device import choose_device, set_determinism


@dataclass(frozen=True)
class World:
    """This process's place among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def sum_dtype(self) -> torch.dtype:
        """What long sums are kept in: float64, where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            self.sum_(torch.zeros(1, device=self.device))

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's `data` (on all ranks), in order of rank."""
        if self.size == 1:
            return [data]
        sizes = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(data)
        self.sum_(sizes)
        padded = torch.zeros(int(sizes.max()), dtype=torch.uint8, device=self.device)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else padded[:0]
        buffers = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(buffers, padded)
        pairs = zip(buffers, sizes.tolist(), strict=True)
        return [bytes(buffer[:size].cpu().numpy()) for buffer, size in pairs]


def rank_from_environment() -> int:
    """Return this process's rank, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined_world(device_name: str | None = None) -> Iterator[World]:
    """Join the peers that torchrun announced in the environment, and leave them at the end."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name, local_rank)
    set_determinism(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // size)))
    world = World(rank_from_environment(), size, device)
    torch.manual_seed(world.rank)  # torch's own seed is another one in each process
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        if size > 1:
            dist.destroy_process_group()
