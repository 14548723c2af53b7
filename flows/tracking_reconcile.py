"""Brings MLflow in line with what is alive on this node, after a crash or an outage."""

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flows import locks, run_lock, tracking_record
from flows.tracking_record import end
from flows.tracking_store import KEY_TAG, Store, reason
from flows.tracking_writer import Writer, settle
from nanochat_core import paths

RECONCILE_SECONDS = 60.0


def reconcile(base: Path, uri: str | None = None) -> list[str]:
    """Write to MLflow what dead flow runs of this node have left unwritten, and close what they have left open.

    `uri` is of the store to use (default: MLFLOW_TRACKING_URI, or the one in `base`); runs of other stores are written
    to those. Returns a line for each thing that was done, or could not be. Raises nothing; ends after about
    RECONCILE_SECONDS for each store.
    """
    with alone(base) as is_alone:
        if not is_alone:
            return ["MLflow is being brought up to date by another process"]
        current = Store(base, uri)
        others = {record.store for record in tracking_record.orphans(base)} - {current.address}
        lines = attempt(lambda: close_forgotten(base, current))
        for store in (current, *(Store(base, address) for address in sorted(others))):
            lines += attempt(partial(write_pending, base, store))
        return lines


def attempt(work: Callable[[], list[str]]) -> list[str]:
    """Return what `work` returns, or a line that says why it could not: MLflow is a mirror, and the node comes up."""
    try:
        return work()
    except Exception as error:
        return [f"MLflow was not brought up to date: {reason(error)}"]


def adopt(writer: Writer, owner: str) -> list[str]:
    """Give the writer what dead flow runs have left unwritten in its store; return the names of these runs.

    A run that its flow has left open ends as KILLED. To be called by one process at a time: see `alone`.
    """
    names = []
    for record in tracking_record.orphans(writer.base):
        if record.store != writer.store.address:
            continue
        record.owner = owner
        if record.status == "RUNNING":
            end(record, "KILLED")
        with writer.lock:
            writer.put(record).save()
        names.append(record.name)
    return names


def write_pending(base: Path, store: Store) -> list[str]:
    """Finish the runs of one store that nobody owns any more; return a line for each outcome."""
    writer = Writer(base, store, on_trouble=lambda _: None)
    names = adopt(writer, f"reconcile-{uuid.uuid4()}")
    if not names:
        return []
    missing = settle(writer, RECONCILE_SECONDS)
    lines = []
    if done := len(names) - len(missing):
        lines.append(f"MLflow: finished {counted(done)} that a crash or an outage had left open")
    if missing:
        lines.append(f"MLflow: {counted(len(missing))} still to be written to {store.address}: {writer.trouble}")
    return lines


def close_forgotten(base: Path, store: Store) -> list[str]:
    """End as KILLED what MLflow shows as running here although no living process and no record tells of it."""
    lines = []
    known = {path.stem for path in tracking_record.pending_dir(base).glob("*.json")}
    for run in store.client.search_runs([store.experiment_id], "attributes.status = 'RUNNING'"):
        tags = run.data.tags
        is_here = tags.get("hostname") == socket.gethostname() and tags.get("base_dir") == str(base)
        owner = tags.get("prefect_flow_run_id", "")
        if is_here and tags.get(KEY_TAG) not in known and not (owner and run_lock.look(base, owner).life == "alive"):
            store.client.set_terminated(run.info.run_id, "KILLED")
            lines.append(f"MLflow: {run.info.run_name}: KILLED, its process is gone")
    return lines


def counted(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"


@contextlib.contextmanager
def alone(base: Path) -> Iterator[bool]:
    """Yield whether nobody else looks through the pending runs at this moment."""
    path = paths.locks_dir(base) / "mlflow_pending.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.held_if_free(path) as is_alone:
        yield is_alone
