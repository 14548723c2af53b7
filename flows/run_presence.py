"""What every flow run does on its node besides its work: its environment, a log of its own, and its lock."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.runtime import flow_run

from flows import background, environment, run_lock

FLUSH_SECONDS = 5.0


@contextmanager
def present(base: Path, name: str) -> Iterator[str]:
    """Be known to this node as a run called `name` for the length of the block; yields the flow run's id.

    While it lasts, `nanochat down` stops it, and the keeper does not take it for dead (flows/run_lock.py). What was to
    be told to Prefect on the side is told before it ends, as far as a few seconds allow.
    """
    environment.prepare(base)
    environment.keep_own_log(base, name)
    run_id = str(flow_run.id or uuid.uuid4())
    with run_lock.alive(base, run_id):
        try:
            yield run_id
        finally:
            background.flush(FLUSH_SECONDS)
