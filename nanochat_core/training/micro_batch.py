"""How many rows go through the model at a time: as many as fit, and fewer where memory ends after all.

The result does not depend on it beyond rounding: losses are summed, and divided by the trained tokens of the whole
batch. The number comes from the memory estimate (`model/memory.py`) and from the size of the device, not from what is
free at the moment, so that a resumed run has the same. The first step is the trial: where it runs out of memory it is
done again with half the rows, and so is any later step.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from nanochat_core.distributed import World
from nanochat_core.errors import SpecError
from nanochat_core.model.gpt import GPT
from nanochat_core.model.memory import micro_rows
from nanochat_core.specs import ModelSpec, Precision

T = TypeVar("T")


def rows_at_a_time(model: ModelSpec, vocab_size: int, precision: Precision, rows: int, world: World) -> int:
    """Return how many of this rank's `rows` of a step go through the model at a time, in even pieces."""
    return micro_rows(
        model,
        vocab_size,
        rows=rows,
        memory_bytes=device_memory(world.device),
        precision=precision,
        ranks=world.size,
        is_cuda=world.device.type == "cuda",
    )


def device_memory(device: torch.device) -> int:
    """Return the bytes that one rank may use: its GPU's memory, or its share of this machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class Halvings:
    """How often memory has run out in this run: pieces are 2 to this power times smaller."""

    def __init__(self) -> None:
        self.count = 0

    def attempt(self, model: GPT, rows: int, work: Callable[[int], T]) -> T:
        """Return `work(rows)`, a forward and backward pass in pieces of so many rows, or of fewer where memory ends.

        Each attempt begins without gradients. Raises SpecError where a single row does not fit.
        """
        while True:
            pieces = max(1, rows >> self.count)
            try:
                return work(pieces)
            except torch.OutOfMemoryError as error:
                problem = str(error).split(". ")[0]
            if pieces == 1:
                raise SpecError(
                    f"One row of {model.spec.sequence_len} tokens does not fit into the memory of {model.device} "
                    f"({problem}). Lower model.depth or model.sequence_len, or train on a larger device."
                )
            self._halve(model, pieces, problem)

    def _halve(self, model: GPT, pieces: int, problem: str) -> None:
        self.count += 1
        model.zero_grad(set_to_none=True)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        print(
            f"out of memory with {pieces} rows at a time ({problem}); this step is done again, and the run goes on, "
            f"with {pieces // 2}: set runtime.device_batch_size to that to spare the attempt",
            flush=True,
        )
