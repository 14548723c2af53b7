"""Several ranks in one process: threads that meet where ranks would use the process group."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from nanochat_core.distributed import World

T = TypeVar("T")


class Meeting:
    """Where all ranks bring something and each goes away with everything."""

    def __init__(self, size: int) -> None:
        self._brought: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=30)

    def exchange(self, rank: int, value: T) -> list[T]:
        self._brought[rank] = value
        self._barrier.wait()
        found = list(self._brought)
        self._barrier.wait()
        return found


@dataclass(frozen=True)
class Peer(World):
    """A rank that meets its peers."""

    meeting: Meeting

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.meeting.exchange(self.rank, tensor.clone())).sum(0))

    def barrier(self) -> None:
        self.meeting.exchange(self.rank, None)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return self.meeting.exchange(self.rank, data)


def on_ranks(size: int, work: Callable[[World], T]) -> list[T | Exception]:
    """Return what `work` returns, or raises, on each of `size` ranks."""
    meeting = Meeting(size)

    def run(rank: int) -> T | Exception:
        try:
            return work(Peer(rank, size, torch.device("cpu"), meeting))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
