"""A checkpoint's tensors in host memory, so that training goes on while they are written.

On CUDA they go over a stream of their own into pinned buffers, which are made at the first save and kept: pinning takes
longer than copying. Elsewhere they are cloned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class HostCopies:
    """The copies of the last save; valid until the next."""

    device: torch.device
    _buffers: dict[str, Tensor] = field(default_factory=dict)
    _stream: "torch.cuda.Stream | None" = None
    _copied: "torch.cuda.Event | None" = None

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of `tensors` (their values at this point of the training stream), by the same names."""
        if self.device.type != "cuda":
            return {name: tensor.detach().clone() for name, tensor in tensors.items()}
        if self._stream is None:
            self._stream, self._copied = torch.cuda.Stream(self.device), torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for name, tensor in tensors.items():
                self._buffer(name, tensor).copy_(tensor.detach(), non_blocking=True)
            self._copied.record(self._stream)
        return {name: self._buffers[name] for name in tensors}

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        found = self._buffers.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            found = self._buffers[name] = torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        return found

    def hold_updates(self) -> None:
        """Let the training stream wait for the copies; to be called before the tensors change."""
        if self._copied is not None:
            torch.cuda.current_stream(self.device).wait_event(self._copied)

    def wait(self) -> None:
        """Wait, on the host, until the copies are there; any thread may call it."""
        if self._copied is not None:
            self._copied.synchronize()
