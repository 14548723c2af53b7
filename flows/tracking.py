"""MLflow: a parent run for a pipeline run, a child run for each stage, fed from the stages' files.

One thread owns the client and works off a queue, so that neither MLflow's slow import, nor the creation of its
database, nor a dead server holds a stage up. After the first trouble of the server, tracking stops with one warning;
every number stays in the artifact folders.
"""

import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flows.progress import say
from flows.stage import StageOutcome
from nanochat_core import paths
from nanochat_core.metrics import read_metrics
from nanochat_core.specs import PipelineSpec

EXPERIMENT = "nanochat"
PARENT_TAG = "mlflow.parentRunId"
BATCH = 500  # metrics in one request; the server takes up to 1,000
FINISH_SECONDS = 30.0
SMALL_FILES = ("result.json", "scores.json", "spec.json")
LINE_FIELDS = {"step", "time", "attempt"}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
log = logging.getLogger("nanochat.tracking")


class Tracker:
    """A pipeline run in MLflow. Nothing here raises or waits, but `finish`, which waits FINISH_SECONDS at most."""

    def __init__(self, base: Path, run_name: str, *, spec: PipelineSpec, tags: dict[str, str]) -> None:
        self._base, self._run_name, self.shared_tags = base, run_name, tags
        self._params = flat(spec.model_dump(mode="json"))
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._client: Any = None
        self._experiment_id = ""
        self.run_id: str | None = None
        self.trouble: str | None = None

    def start(self) -> None:
        """Open the store and the parent run, in the background."""
        self._queue.put(self._open)
        self._thread.start()

    def stage(self, name: str) -> "StageTrack":
        """Return the child run of a stage; it is created when something happens to it."""
        return StageTrack(self, name)

    def log_files(self, files: list[Path]) -> None:
        """Attach small files to the parent run."""
        self.do(lambda client: [client.log_artifact(self.run_id, str(file)) for file in files])

    def log_headline(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Show a stage's headline numbers in the parent run, as `<stage>/<metric>`."""
        self.log_metrics(lambda: self.run_id, [{"step": 0, **{f"{stage}/{name}": metrics[name] for name in metrics}}])

    def finish(self, status: str) -> None:
        """Close the parent run; wait until all is written, or tracking is in trouble, or FINISH_SECONDS are over."""
        self.do(lambda client: client.set_terminated(self.run_id, status))
        self._queue.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"not all was written in {FINISH_SECONDS:g} s")

    def do(self, work: Callable[[Any], Any]) -> None:
        """Have the thread call `work(client)`."""
        self._queue.put(lambda: work(self._client))

    def log_metrics(self, run_id: Callable[[], str | None], lines: list[dict[str, Any]]) -> None:
        """Have the thread write lines of metrics.jsonl to the run that `run_id` names by then."""

        def write(client: Any) -> None:
            from mlflow.entities import Metric

            now = time.time()
            metrics = [
                Metric(metric_key(name), value, int(1000 * line.get("time", now)), line["step"])
                for line in lines
                for name, value in numbers(line)
            ]
            for start in range(0, len(metrics), BATCH):
                client.log_batch(run_id(), metrics=metrics[start : start + BATCH])

        self.do(write)

    def open_run(self, name: str, tags: Mapping[str, str], params: Mapping[str, str]) -> str:
        """Create a run and return its id. Called in the thread."""
        from mlflow.entities import Param

        run = self._client.create_run(self._experiment_id, run_name=name, tags=dict(tags))
        entities = [Param(metric_key(key), value) for key, value in params.items()]
        for start in range(0, len(entities), 100):
            self._client.log_batch(run.info.run_id, params=entities[start : start + 100])
        return str(run.info.run_id)

    def _open(self) -> None:
        for name, value in IMPATIENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        own_folder = paths.mlflow_dir(self._base)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            own_folder.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(uri or f"sqlite:///{own_folder}/mlflow.db")
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            self._experiment_id = experiment.experiment_id
        else:
            files = None if uri else (own_folder / "artifacts").as_uri()
            self._experiment_id = self._client.create_experiment(EXPERIMENT, artifact_location=files)
        self.run_id = self.open_run(self._run_name, self.shared_tags, self._params)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.trouble is not None:
                continue
            try:
                item()
            except Exception as error:  # tracking is a mirror: whatever breaks it, the pipeline goes on
                self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])

    def _give_up(self, reason: str) -> None:
        if self.trouble is None:
            self.trouble = reason
            text = f"MLflow does not answer; this run goes on untracked (its numbers are in the report): {reason}"
            log.warning("%s", text)
            say(f"warning: {text}")  # the terminal of the command shows no log


class StageTrack:
    """A stage's child run. Steps that are written again after a resume reach MLflow once, as they were last."""

    def __init__(self, tracker: Tracker, stage: str) -> None:
        self._tracker, self._stage = tracker, stage
        self._tags = {"stage": stage}
        self._params: dict[str, str] = {}
        self._folder: Path | None = None
        self._is_open = self._has_history = False
        self.run_id: str | None = None

    def describe(self, *, fingerprint: str, params: Mapping[str, Any], folder: Path) -> None:
        """Say what the run is of; `folder` is the stage's."""
        self._tags["fingerprint"] = fingerprint
        self._params = flat(params)
        self._folder = folder

    def start(self) -> str | None:
        """Open the run of a stage that is really run; returns its id if that is known already."""
        self._open({"cached": "false"})
        return self.run_id

    def log(self, lines: list[dict[str, Any]]) -> None:
        """Write new lines; before the first ones, the lines of earlier attempts that they do not overwrite."""
        if not self._has_history and self._folder is not None:
            self._has_history = True
            first = lines[0]["step"]
            earlier = [line for line in read_metrics(self._folder / "metrics.jsonl") if line["step"] < first]
            self._tracker.log_metrics(lambda: self.run_id, earlier)
        self._tracker.log_metrics(lambda: self.run_id, lines)

    def finish(self, outcome: StageOutcome) -> None:
        """Close the run with the headline numbers, which the parent shows as well, and the small files."""
        self._open({"cached": "true", "made_by": outcome.git_commit or "unknown"})
        self._tracker.log_metrics(lambda: self.run_id, [{"step": 0, **outcome.metrics}])
        self._tracker.log_headline(self._stage, outcome.metrics | {"seconds": outcome.seconds})
        if not outcome.is_cached:
            for file in (outcome.folder / name for name in SMALL_FILES):
                if file.exists():
                    self._tracker.do(partial(self._attach, file))
        self._tracker.do(lambda client: client.set_terminated(self.run_id, "FINISHED"))

    def _attach(self, file: Path, client: Any) -> None:
        client.log_artifact(self.run_id, str(file))

    def fail(self) -> None:
        """Close the run of a stage that has failed."""
        self._open({"cached": "false"})
        self._tracker.do(lambda client: client.set_terminated(self.run_id, "FAILED"))

    def _open(self, tags: dict[str, str]) -> None:
        if self._is_open:
            return
        self._is_open = True
        own = self._tags | tags

        def create(_: Any) -> None:
            tags = self._tracker.shared_tags | own | {PARENT_TAG: self._tracker.run_id or ""}
            self.run_id = self._tracker.open_run(self._stage, tags, self._params)

        self._tracker.do(create)


def numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics in a line of metrics.jsonl: finite numbers under any other name than step, time, attempt."""
    for name, value in line.items():
        if name not in LINE_FIELDS and isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


def metric_key(name: str) -> str:
    """Return the name in the letters that MLflow takes."""
    return re.sub(r"[^A-Za-z0-9_\-. /:]", "_", name)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as dotted parameters.

    >>> flat({"model": {"depth": 4}, "seed": 42})
    {'model.depth': '4', 'seed': '42'}
    """
    params: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            params |= flat(value, f"{prefix}{name}.")
        else:
            params[f"{prefix}{name}"] = str(value)[:5000]
    return params
