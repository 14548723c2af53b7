"""Which device a stage computes on, and in which arithmetic."""

import os

import torch

from nanochat_core.errors import SpecError
from nanochat_core.specs import Precision


def choose_device(name: str | None = None, local_rank: int = 0) -> torch.device:
    """Return the device called `name` (cuda, mps, cpu), else $NANOCHAT_DEVICE, else the best that is there.

    Raises SpecError where the one that was asked for is not there.
    """
    name = name or os.environ.get("NANOCHAT_DEVICE")
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not name:
        name = next(kind for kind, is_available in is_there.items() if is_available)
    if not is_there.get(name, False):
        raise SpecError(
            f"The device {name!r} is not there; torch {torch.__version__} sees {[k for k in is_there if is_there[k]]}."
        )
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def set_determinism(device: torch.device) -> None:
    """On the CPU, have equal runs give equal bits: torch's own switch, and no denormals that cost time."""
    if device.type == "cpu":
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import the compiler: a second
        torch.utils.deterministic.fill_uninitialized_memory = False  # NaN into all that is about to be written: slow
        torch.set_flush_denormal(True)
    else:
        torch.backends.cuda.matmul.allow_tf32 = True


def compute_dtype(precision: Precision) -> torch.dtype:
    """Return what a model computes in; its matrices stay float32 and are cast at each use."""
    return torch.float32 if precision == "fp32" else torch.bfloat16
