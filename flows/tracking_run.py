"""Brings one MLflow run to what its record asks for, from whatever state it is in. May fail anywhere, and be repeated.

A request that failed may have been carried out all the same, and log_batch would write its points a second time. So
after each failure, and for a run that was not begun here, the store is asked first which steps it has.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from flows import registry, tracking_record
from flows.system_metrics import SYSTEM_FILE
from flows.tracking_points import Point, PointReader, metric_key
from flows.tracking_record import RunRecord
from flows.tracking_store import PARENT_TAG, Store, is_refusal, reason
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import ArtifactError

BATCH, SMALLEST_BATCH = 1000, 25  # points in one request
CURVE_FILES = ("metrics.jsonl", SYSTEM_FILE)
NO_DATA = {"model", "tokenizer"}  # inputs of a stage that are no data sets
log = logging.getLogger("nanochat.tracking")


class RunWriter:
    """Writes one run. `record` belongs to two threads: change it, and `save` it, with `lock` held."""

    def __init__(self, base: Path, record: RunRecord, store: Store, *, lock: threading.RLock) -> None:
        self.record, self._base, self._store, self._lock = record, base, store, lock
        self.on_open: Callable[[str], None] | None = None  # is told the run's id, once
        self._readers: list[PointReader] = []
        self._points: list[Point] = []
        self._headlines_read = 0
        self._is_open = False
        self._must_ask = True
        self._may_be_twice = False
        self._batch = BATCH
        self._done: set[str] = set()

    def save(self) -> None:
        """Keep the record on the disk, and say in the stage's folder which run it is."""
        tracking_record.save(self._base, self.record)
        tracking_record.write_link(self.record)

    def is_complete_after(self, parent_run_id: str | None) -> bool:
        """Write what is new; tell whether the run has ended and all of it is written. Raises what the store raises.

        `parent_run_id` is looked up where it is None and the run has a parent. What the store refuses for good is left
        out, with a warning.
        """
        with self._lock:
            goal = self.record.model_copy(deep=True)
        self._open(goal, parent_run_id)
        self._once("params", lambda: self._store.log_params(self._run_id, goal.params))
        self._once("data sets", lambda: self._log_data_sets(goal))
        self._write_points(goal)
        for file in goal.files:
            self._once(f"file {file}", lambda file=file: self._log_file(file, goal.folder))  # type: ignore[misc]
        if goal.status == "RUNNING":
            return False
        if goal.registers_model:
            self._once("model", lambda: registry.register(self._store, self._run_id, goal))
        self._close(goal)
        return self._forget(goal)

    @property
    def _run_id(self) -> str:
        assert self.record.run_id is not None
        return self.record.run_id

    def _open(self, goal: RunRecord, parent_run_id: str | None) -> None:
        """Find or create the run, and read the stage's files from their beginning."""
        if self._is_open:
            return
        run_id = self._find(goal)
        if goal.parent is not None and parent_run_id is None:
            parent_run_id = next(iter(self._store.find(goal.parent)), None)
        tags = goal.tags | ({PARENT_TAG: parent_run_id} if parent_run_id else {})
        if run_id is None:
            has_failed, self._may_be_twice = self._may_be_twice, True  # until the answer is here
            run_id = self._store.create(goal, tags)
            self._may_be_twice, self._must_ask = has_failed, False
        else:
            self._must_ask = True
            if goal.is_continued:
                self._store.set_tags(run_id, tags)
            if goal.status == "RUNNING":
                self._store.client.update_run(run_id, status="RUNNING")
        with self._lock:
            self.record.run_id = run_id
            self.save()
        self._read_from_start()
        self._is_open = True
        if self.on_open:
            self.on_open(run_id)

    def _find(self, goal: RunRecord) -> str | None:
        if goal.run_id is not None and self._store.has(goal.run_id):
            return goal.run_id
        return next(iter(self._store.find(goal.key)), None)

    def reopen(self) -> None:
        """Look at the run anew: it goes on, under a record that has changed. With the lock held."""
        self._is_open = False

    def _read_from_start(self) -> None:
        folder = self.record.folder if self.record.has_curves else None
        self._readers = [PointReader(folder / name) for name in CURVE_FILES] if folder else []
        self._points, self._headlines_read = [], 0

    def _once(self, what: str, work: Callable[[], None]) -> None:
        """Do a thing that may be repeated, until it was done once; a refusal is the end of it as well."""
        if what in self._done:
            return
        try:
            work()
        except (OSError, ArtifactError) as error:
            self._warn(what, error)
        except Exception as error:
            if not is_refusal(error):
                raise
            self._warn(what, error)
        self._done.add(what)

    def _warn(self, what: str, error: Exception) -> None:
        log.warning("MLflow does not have the %s of %s: %s", what, self.record.name, reason(error))

    def _log_file(self, file: Path, folder: Path | None) -> None:
        """Attach a file, under the path that it has in the stage's folder."""
        if file.exists():
            inside = file.parent.relative_to(folder) if folder and file.is_relative_to(folder) else Path()
            place = inside.as_posix() if inside.parts else None
            self._store.client.log_artifact(self._run_id, str(file), place)

    def _log_data_sets(self, goal: RunRecord) -> None:
        if goal.folder is None or not (goal.folder / "spec.json").exists():
            return
        stage = StageFolder(goal.folder)
        digests = stage.request.input_digests
        found = {name: (digests[name], stage.input(name)) for name in digests if name not in NO_DATA}
        if found:
            self._store.log_data_sets(self._run_id, found)

    def _write_points(self, goal: RunRecord) -> None:
        for reader in self._readers:
            self._points += reader.new_points()
        for headline in goal.headlines[self._headlines_read :]:
            time = int(1000 * headline.time)
            self._points += [Point(metric_key(name), value, time, 0) for name, value in headline.values.items()]
        self._headlines_read = len(goal.headlines)
        if self._points and self._must_ask:
            keys = {point.key for point in self._points}
            known = {key: self._store.steps(self._run_id, key) for key in keys}
            self._points = [point for point in self._points if point.step not in known[point.key]]
            self._must_ask = False
        while self._points:
            self._write_batch()

    def _write_batch(self) -> None:
        try:
            self._store.log_points(self._run_id, self._points[: self._batch])
        except Exception:
            self._must_ask = True  # it may have been written all the same
            self._batch = max(SMALLEST_BATCH, self._batch // 2)
            raise
        del self._points[: self._batch]
        self._batch = min(BATCH, 2 * self._batch)

    def _close(self, goal: RunRecord) -> None:
        ended = int(1000 * goal.ended) if goal.ended else None
        self._store.client.set_terminated(self._run_id, goal.status, end_time=ended)
        if self._may_be_twice:  # an earlier request to create it got no answer, and was carried out late
            for other in self._store.find(goal.key):
                if other != self._run_id:
                    self._store.client.delete_run(other)
            self._may_be_twice = False

    def _forget(self, goal: RunRecord) -> bool:
        with self._lock:
            if self.record.model_copy(update={"run_id": goal.run_id}) != goal:
                return False  # it has changed in the meantime
            tracking_record.write_link(self.record)
            tracking_record.forget(self._base, self.record.key)
            return True
