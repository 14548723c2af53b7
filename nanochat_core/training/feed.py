"""From the loader to the device: rows are made ahead on a thread, and cross to the GPU while it computes.

What crosses is what the loader holds, two or four bytes a token, and is widened to int64 on the device. On CUDA it goes
through two pinned buffers in turns on a stream of its own; an event says when each may be written again.
"""

import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nanochat_core.data.packing import PackingCounts

ROWS_AHEAD = 2  # steps
SNAPSHOT_EVERY = 32  # steps; a resumed run makes at most so many once more, which takes milliseconds each
STOP_SECONDS = 60.0


class RowLoader(Protocol):
    """Where rows come from. `state` is tensors by name; `load` takes what any number of ranks have saved."""

    def rows(self) -> np.ndarray:
        """Return this rank's rows of the next step, unsigned (rows, T + 1)."""
        ...

    @property
    def counts(self) -> PackingCounts:
        """What packing has done so far."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...

    def origins(self) -> dict[str, list[int]]:
        """Make the next step's rows, and return which documents are in them: file -> numbers in it."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Made:
    """A step's rows on their way, and the loader's counts with them; its state before them, at some steps."""

    rows: Tensor
    arrived: "torch.cuda.Event | None"
    counts: PackingCounts
    state: dict[str, Tensor] | None


class Feed:
    """A `training.loop.Loader` over a row loader. Its state is that of the steps taken, not of those made ahead."""

    def __init__(self, loader: RowLoader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._crossing = PinnedCrossing(device) if device.type == "cuda" else Widening(device)
        self._queue: queue.Queue[Made | BaseException] = queue.Queue(ROWS_AHEAD)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._state = loader.state()
        self._taken = 0  # steps since that state
        self.counts = loader.counts  # of the steps taken

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return ids and targets of this rank's next step on the device, each int64 (rows, T)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._make, name="rows", daemon=True)
            self._thread.start()
        made = self._queue.get()
        if isinstance(made, BaseException):
            raise made
        if made.state is not None:
            self._state, self._taken = made.state, 0
        self._taken += 1
        self.counts = made.counts
        rows = self._crossing.receive(made)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _make(self) -> None:
        step, stopping = self._taken, self._stopping

        def put(item: "Made | BaseException") -> None:
            while not stopping.is_set():
                with contextlib.suppress(queue.Full):
                    return self._queue.put(item, timeout=0.2)

        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # a thread begins on the first GPU, whichever its process has
            while not stopping.is_set():
                state = self._loader.state() if step % SNAPSHOT_EVERY == 0 else None
                rows, arrived = self._crossing.send(self._loader.rows())
                put(Made(rows, arrived, self._loader.counts, state))
                step += 1
        except BaseException as error:  # for the training thread to raise
            put(error)

    def state(self) -> dict[str, Tensor]:
        """Return a state of the loader, and how many steps were taken since; the same whether or not it was stopped."""
        return self._state | {"feed.taken": torch.tensor([self._taken])}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue after the steps that were taken."""
        self._stop()
        self._loader.load(state)
        self._state, self._taken = self._loader.state(), int(state["feed.taken"])
        for _ in range(self._taken):
            self._loader.rows()
        self.counts = self._loader.counts

    def origins(self) -> dict[str, list[int]]:
        """Return which documents are in the rows of the batch last given: file -> numbers in it.

        They are made once more for it, from the last state that was noted; the next batch is the same as without.
        """
        self._stop()
        self._loader.load(self._state)
        for _ in range(self._taken - 1):
            self._loader.rows()
        return self._loader.origins()

    def close(self) -> None:
        """Stop the thread and close the loader."""
        self._stop()
        self._loader.close()

    def _stop(self) -> None:
        """Stop the thread and forget what it has made; the next batch starts another."""
        self._stopping.set()
        if self._thread:
            self._thread.join(STOP_SECONDS)
            assert not self._thread.is_alive(), f"rows are still being made after {STOP_SECONDS:g} s"
        self._thread, self._queue, self._stopping = None, queue.Queue(ROWS_AHEAD), threading.Event()


def signed(rows: np.ndarray) -> Tensor:
    """Return the same bytes as a signed tensor: torch computes with few unsigned types."""
    return torch.from_numpy(rows.view(f"i{rows.itemsize}"))


def widened(rows: Tensor) -> Tensor:
    """Return the unsigned numbers in `rows` as int64."""
    return rows.to(torch.int64) & ((1 << 8 * rows.itemsize) - 1)


class Widening:
    """The way to a device that needs no pinned memory: the thread does it all."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, rows: np.ndarray) -> tuple[Tensor, None]:
        return widened(signed(rows).to(self._device)), None

    def receive(self, made: Made) -> Tensor:
        return made.rows


class PinnedCrossing:
    """The way to a GPU: two pinned buffers in turns, a stream of its own, an event for each copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers: list[Tensor] = []
        self._copied = [torch.cuda.Event(), torch.cuda.Event()]
        self._turn = 0

    def send(self, rows: np.ndarray) -> "tuple[Tensor, torch.cuda.Event]":
        if not self._buffers:
            self._buffers = [torch.empty_like(signed(rows), pin_memory=True) for _ in self._copied]
        buffer, copied = self._buffers[self._turn], self._copied[self._turn]
        self._turn = 1 - self._turn
        copied.synchronize()  # the copy before the last has left this buffer; returns at once before the first
        buffer.copy_(signed(rows))
        with torch.cuda.stream(self._stream):
            on_device = widened(buffer.to(self._device, non_blocking=True))
            copied.record(self._stream)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return on_device, arrived

    def receive(self, made: Made) -> Tensor:
        """Let the present stream wait for the rows, and keep their memory until it is done with them."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(made.arrived)
        made.rows.record_stream(stream)
        return made.rows
