"""A loss that is no number: which batch it was, in words that lead to the documents, and how a run leaves it out."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Protocol

from nanochat_core.distributed import World
from nanochat_core.errors import NonFiniteLoss

MOST_RANGES = 12  # of one file, in a message


class NamesOrigins(Protocol):
    """A loader that can say what its last batch was made of."""

    def origins(self) -> dict[str, list[int]]:
        """Return what is in this rank's rows of the batch last given: file or kind -> numbers in it."""
        ...


def check_finite(what: str, value: float, step: int, batch: int, loader: NamesOrigins, world: World) -> None:
    """Raise NonFiniteLoss, naming the batch, where `value` is not finite (on all ranks alike).

    To be called before the weights change, or before they are saved.
    """
    if math.isfinite(value):
        return
    raise NonFiniteLoss(
        f"The {what} of step {step} is {value}; the last checkpoint is as it was. Batch {batch} of the run was made "
        f"from the documents {origins_in_words(loader, world)}. Look at these, or lower the rates "
        "(optimizer.lr_scale of the stage), then run again.",
        batch,
    )


def origins_in_words(loader: NamesOrigins, world: World) -> str:
    """Return what the ranks' last batches were made of, for example "shard_00003.parquet (17-29, 40)"."""
    found: dict[str, set[int]] = {}
    for data in world.gather_bytes(json.dumps(loader.origins()).encode()):
        for name, numbers in json.loads(data).items():
            found.setdefault(name, set()).update(numbers)
    return "; ".join(f"{name} ({ranges(sorted(numbers))})" for name, numbers in sorted(found.items()))


def ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers as ranges, at most a dozen.

    >>> ranges([3, 4, 5, 9])
    '3-5, 9'
    """
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    more = sum(map(len, runs[MOST_RANGES:]))
    return ", ".join(texts[:MOST_RANGES]) + (f" and {more} more" if more else "")


def batch_of(step: int, skipped: Sequence[int]) -> int:
    """Return which batch a step takes, both counted from 1, where those in `skipped` are left out.

    >>> [batch_of(step, [3, 4]) for step in (1, 2, 3, 4)]
    [1, 2, 5, 6]
    """
    batch = step
    for left_out in sorted(skipped):
        batch += left_out <= batch
    return batch
