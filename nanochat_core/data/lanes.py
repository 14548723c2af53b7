"""How lanes share the rows of a step, and ranks the lanes. Torch-free, and quick to import: forms are checked by it."""

import math

from nanochat_core.errors import SpecError

MAX_LANES = 64


def lanes_of(rows_per_step: int, world_size: int) -> int:
    """Return the number of lanes: the most that share a step's rows evenly, up to 64, whatever the number of ranks.

    Where the ranks do not divide the lanes, some work for one lane more than others, and these wait for them: 3 ranks
    have 22, 21 and 21 of 64. Raises SpecError where a rank would have none.
    """
    lanes = math.gcd(rows_per_step, MAX_LANES)
    if lanes < world_size:
        raise SpecError(
            f"{rows_per_step} rows a step go to {lanes} lanes, fewer than the {world_size} ranks. "
            f"Choose fewer ranks, or a total_batch_tokens of more rows, best a multiple of {MAX_LANES}."
        )
    return lanes


def busiest_rows(rows_per_step: int, world_size: int) -> int:
    """Return the rows of a step that the busiest rank has.

    >>> busiest_rows(256, 8), busiest_rows(256, 3)
    (32, 88)
    """
    lanes = math.gcd(rows_per_step, MAX_LANES)
    return -(-lanes // world_size) * (rows_per_step // lanes)
