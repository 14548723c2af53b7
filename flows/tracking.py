"""MLflow: a parent run for a pipeline run, a child run for each stage, fed from the stages' files.

    flow process                                        one thread (flows/tracking_writer.py)
    Tracker, StageTrack -> RunRecord on the disk  ...>  RunWriter -> MLflow
    stage process       -> metrics.jsonl          ...>

Nothing here waits for MLflow, but `finish`, for a bounded time. What MLflow does not have by then is kept under
$NANOCHAT_BASE_DIR/mlflow_pending, and written by the next run or `nanochat up`. A stage that goes on after a failure
goes on in its run: one curve, and below the pipeline run that finished it.
"""

import logging
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows import tracking_record
from flows.progress import say
from flows.stage import StageOutcome
from flows.tracking_params import compared_metrics, flat, parent_params
from flows.tracking_points import numbers
from flows.tracking_reconcile import adopt, alone, reconcile
from flows.tracking_record import Headline, RunRecord, Status, end
from flows.tracking_run import RunWriter
from flows.tracking_store import Store
from flows.tracking_writer import Writer
from nanochat_core.model_chain import made_by
from nanochat_core.specs import PipelineSpec

FINISH_SECONDS = 20.0
SMALL_FILES = ("result.json", "scores.json", "gallery.json", "spec.json")
ANSWERS = "records/*.parquet"  # of an evaluation, a file a task
__all__ = ["StageTrack", "Tracker", "reconcile"]
log = logging.getLogger("nanochat.tracking")


class Tracker:
    """A pipeline run in MLflow. Nothing here raises or waits, but `finish`, which waits FINISH_SECONDS at most.

    A flow run that is tried again goes on in the same MLflow run.
    """

    def __init__(self, base: Path, run_name: str, *, spec: PipelineSpec, tags: dict[str, str]) -> None:
        self.base = base
        self.model_name = f"{spec.recipe}-d{spec.pretrain.model.depth}"
        self.owner = tags.get("prefect_flow_run_id") or str(uuid.uuid4())
        self.shared_tags = tags | {
            "depth": str(spec.pretrain.model.depth),
            "data_source": spec.download.source,
            "hostname": socket.gethostname(),
            "base_dir": str(base),
        }
        self.writer = Writer(base, Store(base), on_trouble=tell_trouble)
        self._record = self.new_record(self.owner, run_name, parent=None)
        self._record.tags, self._record.params = dict(self.shared_tags), parent_params(spec)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the parent run, once it is known."""
        return self.writer.run_id(self.owner)

    @property
    def trouble(self) -> str | None:
        """What is wrong with MLflow at the moment."""
        return self.writer.trouble

    def start(self) -> None:
        """Open the store and the parent run, in the background; take over what dead runs have left unwritten."""
        with alone(self.base) as is_alone:
            if is_alone:
                adopt(self.writer, self.owner)
        self.change(self._record)
        self.writer.start()

    def stage(self, name: str) -> "StageTrack":
        """Return the child run of a stage; it is created when something happens to it."""
        return StageTrack(self, name)

    def log_files(self, files: list[Path]) -> None:
        """Attach small files to the parent run."""
        self.change(self._record, lambda record: record.files.extend(files))

    def log_headline(self, metrics: Mapping[str, Any]) -> None:
        """Show numbers of a stage in the parent run."""
        self.change(self._record, lambda record: record.headlines.append(headline(metrics)))

    def finish(self, status: Status) -> None:
        """Close the runs; wait until all is written, or MLflow is in trouble, or FINISH_SECONDS are over."""
        with self.writer.lock:
            for record in self.writer.records():
                if not record.ended:
                    self.change(record, lambda record: end(record, status))
        if missing := self.writer.close(FINISH_SECONDS):
            say(
                f"MLflow does not have all of this run yet ({', '.join(missing)}: {self.trouble or 'it is slow'}). "
                "The next run or `nanochat up` writes the rest; nothing is lost."
            )

    def new_record(self, key: str, name: str, *, parent: str | None) -> RunRecord:
        return RunRecord(
            key=key, owner=self.owner, store=self.writer.store.address, name=name, parent=parent, started=time.time()
        )

    def change(self, record: RunRecord, how: Callable[[RunRecord], None] | None = None) -> RunWriter:
        """Change what a run is to look like, and have it written."""
        with self.writer.lock:
            if how:
                how(record)
            run = self.writer.put(record)
            run.save()
        self.writer.wake()
        return run


class StageTrack:
    """A stage's child run. Its curves are read from the stage's files, so that nobody has to hand them over."""

    def __init__(self, tracker: Tracker, stage: str) -> None:
        self._tracker, self._stage = tracker, stage
        self._tags = {"stage": stage}
        self._params: dict[str, str] = {}
        self._folder: Path | None = None
        self._record: RunRecord | None = None
        self.on_open: Callable[[str], None] | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it is known."""
        return self._tracker.writer.run_id(self._record.key) if self._record else None

    def describe(self, *, fingerprint: str, params: Mapping[str, Any], folder: Path) -> None:
        """Say what the run is of; `folder` is the stage's."""
        self._tags |= {"fingerprint": fingerprint, "folder": str(folder)}
        self._params = flat(params)
        self._folder = folder

    def start(self) -> str | None:
        """Open the run of a stage that is really run, or go on with it; returns its id if that is known already."""
        link = tracking_record.read_link(self._folder) if self._folder else None
        key = link.key if link and not link.is_finished else self._own_key
        record = self._find(key)
        is_ours = record.owner == self._tracker.owner and record.tags.get("cached") == "false"
        record.run_id = record.run_id or (link.run_id if link and link.key == key else None)
        self._record = record
        with self._tracker.writer.lock:
            run = self._tracker.change(record, lambda record: self._go_on(record, is_continued=not is_ours))
            run.on_open = self._tell_url
            run.reopen()
        return self.run_id

    def log(self, lines: list[dict[str, Any]]) -> None:
        """Take note of new lines. The writer reads them from the file."""

    def finish(self, outcome: StageOutcome) -> None:
        """Close the run with the headline numbers, which the parent shows as well, the small files, and each answer."""
        if self._record is None:
            self._record = self._find(self._own_key)
            self._record.tags = self._all_tags({"cached": "true", "made_by": outcome.git_commit or "unknown"})
            self._record.params = self._params
        self._tracker.log_headline(compared_metrics(self._stage, outcome.metrics, outcome.seconds))
        self._tracker.change(self._record, lambda record: self._finish(record, outcome))

    def fail(self) -> None:
        """Close the run of a stage that has failed."""
        if self._record is None:
            self._record = self._find(self._own_key)
            self._record.tags, self._record.params = self._all_tags({"cached": "false"}), self._params
        self._tracker.change(self._record, lambda record: end(record, "FAILED"))

    @property
    def _own_key(self) -> str:
        return f"{self._tracker.owner}.{self._stage}"

    def _all_tags(self, own: dict[str, str]) -> dict[str, str]:
        return self._tracker.shared_tags | self._tags | own

    def _find(self, key: str) -> RunRecord:
        """Return the record of an earlier attempt that was left open, or a new one."""
        run = self._tracker.writer.get(key)
        if run is not None:
            return run.record
        kept = tracking_record.load(self._tracker.base, key)
        name = f"{self._stage} {self._tracker.model_name}"  # a chart's legend shows nothing else
        record = kept or self._tracker.new_record(key, name, parent=self._tracker.owner)
        record.folder = self._folder
        return record

    def _go_on(self, record: RunRecord, *, is_continued: bool) -> None:
        """Make it a run that is going on, and ours."""
        record.owner, record.parent, record.store = (
            self._tracker.owner,
            self._tracker.owner,
            self._tracker.writer.store.address,
        )
        record.folder, record.has_curves = self._folder, True
        record.is_continued = record.is_continued or is_continued
        record.tags, record.params = self._all_tags({"cached": "false"}), self._params
        record.status, record.ended = "RUNNING", None

    def _finish(self, record: RunRecord, outcome: StageOutcome) -> None:
        record.headlines.append(headline(outcome.metrics))
        if not outcome.is_cached:
            record.files = [outcome.folder / name for name in SMALL_FILES if (outcome.folder / name).exists()]
            record.files += sorted(outcome.folder.glob(ANSWERS))
            model = made_by(self._stage)
            record.registers_model = bool(model and model.is_speaking) and "sweep" not in self._tracker.shared_tags
        end(record, "FINISHED")

    def _tell_url(self, run_id: str) -> None:
        store = self._tracker.writer.store
        if self.on_open and store.uri.startswith("http"):
            self.on_open(f"{store.address.rstrip('/')}/#/experiments/{store.experiment_id}/runs/{run_id}")


def headline(values: Mapping[str, Any]) -> Headline:
    """Return the finite numbers in `values` as they are now."""
    return Headline(time=time.time(), values=dict(numbers(values)))


def tell_trouble(reason: str) -> None:
    text = f"MLflow does not answer; training goes on, and MLflow gets all of it later: {reason}"
    log.warning("%s", text)
    say(f"warning: {text}")  # the terminal of the command shows no log
