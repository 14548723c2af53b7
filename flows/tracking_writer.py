"""The one thread that talks to MLflow. A server that is down, slow or full holds up nothing but this thread.

It looks every PERIOD_SECONDS at what the stages have written. After trouble it waits longer from time to time, up to
LONGEST_WAIT_SECONDS, and goes on where it was.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flows import tracking_record
from flows.system_metrics import SystemMonitor
from flows.tracking_record import RunRecord
from flows.tracking_run import RunWriter
from flows.tracking_store import Store, is_refusal, reason

PERIOD_SECONDS = 5.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
FAILURES_IN_A_ROUND = 2  # runs; then the rest waits: each may have cost a time-out
log = logging.getLogger("nanochat.tracking")


class Writer:
    """Brings every run that it was given to what its record says. `lock` guards the records and the list of them."""

    def __init__(self, base: Path, store: Store, *, on_trouble: Callable[[str], None]) -> None:
        self.lock = threading.RLock()
        self.base, self.store = base, store
        self.trouble: str | None = None
        self._on_trouble = on_trouble
        self._runs: dict[str, RunWriter] = {}
        self._run_ids: dict[str, str] = {}  # of all runs that were here
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Start the thread, which imports MLflow.

        MLflow's importlib_metadata enters itself among Python's finders before the rest of it is there: entry points
        that are looked for meanwhile, in another thread, raise NameError. So it comes first.
        """
        with suppress(ImportError):
            importlib.import_module("importlib_metadata")
        self._thread.start()

    def put(self, record: RunRecord) -> RunWriter:
        """Take in a run, or return the one with this key that is here already. With the lock held."""
        if record.key not in self._runs:
            self._runs[record.key] = RunWriter(self.base, record, self.store, lock=self.lock)
        return self._runs[record.key]

    def get(self, key: str) -> RunWriter | None:
        return self._runs.get(key)

    def records(self) -> list[RunRecord]:
        """Return the records of the runs that are not written to their end."""
        return [run.record for run in self._runs.values()]

    def run_id(self, key: str) -> str | None:
        """Return MLflow's id of a run, once it is known."""
        run = self._runs.get(key)
        return (run.record.run_id if run else None) or self._run_ids.get(key)

    def wake(self) -> None:
        """Look now, unless MLflow is in trouble."""
        if self.trouble is None:
            self._wake.set()

    def close(self, timeout_seconds: float) -> list[str]:
        """Write what can be written within the time; return the names of the runs that MLflow does not have whole."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_seconds)
        with self.lock:
            return [run.record.name for run in self._runs.values()]

    def _work(self) -> None:
        monitor = SystemMonitor()
        failures = failures_at_the_end = 0
        while True:
            self._wake.clear()
            is_closing = self._is_closing  # read before the round: what was asked for before that is written in it
            failures = 0 if self._round() else failures + 1
            failures_at_the_end += is_closing and failures > 0
            if is_closing and (not self._runs or failures_at_the_end == 2):
                return
            monitor.write(self._working_folders())
            self._wake.wait(wait_seconds(failures, is_closing=is_closing))

    def _working_folders(self) -> list[Path]:
        with self.lock:
            records = [run.record for run in self._runs.values()]
        running = [record.folder for record in records if record.folder and record.has_curves and not record.ended]
        return [folder for folder in running if folder.is_dir()]

    def _round(self) -> bool:
        """Write what is new of every run; tell whether that went well."""
        with self.lock:
            runs = list(self._runs.values())
        failures = 0
        for run in runs:
            parent = run.record.parent
            if parent is not None and parent in self._runs and self.run_id(parent) is None:
                continue  # the parent's turn comes first
            try:
                self._write(run, self.run_id(parent) if parent else None)
            except Exception as error:  # whatever breaks the mirror, the pipeline goes on
                failures += 1
                self._note(error)
                if failures == FAILURES_IN_A_ROUND:
                    break
        if not failures and self.trouble is not None:
            self.trouble = None
            log.info("MLflow answers again")
        return not failures

    def _write(self, run: RunWriter, parent_run_id: str | None) -> None:
        try:
            is_complete = run.is_complete_after(parent_run_id)
        except Exception as error:
            if not is_refusal(error):
                raise
            self._give_up(run, error)
            return
        if is_complete:
            with self.lock:
                self._run_ids[run.record.key] = run.record.run_id or ""
                self._runs.pop(run.record.key, None)

    def _give_up(self, run: RunWriter, error: Exception) -> None:
        """MLflow refuses this run: somebody has deleted it."""
        log.warning("MLflow refuses %s; its numbers stay in its folder: %s", run.record.name, reason(error))
        with self.lock:
            tracking_record.forget(self.base, run.record.key)
            self._runs.pop(run.record.key, None)

    def _note(self, error: Exception) -> None:
        is_new = self.trouble is None
        self.trouble = reason(error)
        if is_new:
            self._on_trouble(self.trouble)


def wait_seconds(failures: int, *, is_closing: bool) -> float:
    """Return how long to wait after so many rounds that failed, one after another.

    >>> [wait_seconds(failures, is_closing=False) for failures in (0, 1, 2, 3, 9)]
    [5.0, 1.0, 2.0, 4.0, 30.0]
    """
    if is_closing or failures == 1:
        return FIRST_WAIT_SECONDS
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(9, failures - 1)) if failures else PERIOD_SECONDS


def settle(writer: Writer, timeout_seconds: float) -> list[str]:
    """Start a writer only to write what it was given; return the names of the runs that are not whole after that."""
    started = time.monotonic()
    writer.start()
    return writer.close(max(0.0, timeout_seconds - (time.monotonic() - started)))
