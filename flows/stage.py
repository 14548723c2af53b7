"""What "a cached stage" is: its declaration, its fingerprint, and the Prefect task that makes or reuses its output.

    Stage + PipelineSpec + digests of the inputs -> fingerprint -> artifacts/<stage>/<fingerprint[:16]>/ -> manifest

The cache key is the fingerprint and nothing of the file system; the manifest holds the truth about the bytes. A hit of
Prefect's cache counts only while the manifest on disk verifies, and a lost record of Prefect's costs nothing.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from prefect import Task
from prefect.assets import Asset, AssetProperties
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.tasks import MaterializingTask

from flows import launch, locks, training_limit
from flows.progress import warn
from flows.shard_tasks import ShardTask, ShardTasks
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import Manifest, StageFolder, StageRequest
from nanochat_core.errors import StageFailed
from nanochat_core.model_chain import made_by
from nanochat_core.spec_base import Spec
from nanochat_core.specs import PipelineSpec

FORCED = ".forced_by"  # in a stage's folder: the flow run that emptied it last
ASSETS = {"download": "text shards", "tokenizer": "tokenizer"}  # that people look for, besides models -> what they are


@dataclass(frozen=True)
class StageParams:
    """What a stage is told (`full`), and the part of it that changes its output (`output`), which is fingerprinted."""

    full: dict[str, Any]
    output: dict[str, Any]

    @classmethod
    def of(cls, spec: Spec, *, exclude: Sequence[str] = (), **extra: Any) -> "StageParams":
        """Take all fields of `spec` but `exclude`; `extra` goes into both."""
        full = spec.model_dump(mode="json", exclude=set(exclude)) | extra
        return cls(full, json.loads(json.dumps(spec.output_params(exclude=frozenset(exclude)) | extra)))


@dataclass(frozen=True)
class Stage:
    """One kind of artifact. Raise `version` when a change of the code alters what it makes from the same input."""

    name: str
    part: str  # the field of PipelineSpec that it belongs to, or its name in `finetune`: what --force calls it
    module: str
    version: int
    params: Callable[[PipelineSpec], StageParams]
    inputs: Callable[[PipelineSpec], dict[str, "Stage"]] = lambda spec: {}
    measured_on: Callable[[PipelineSpec], dict[str, "Stage"]] = lambda spec: {}  # inputs that change no output
    uses_torchrun: bool = False
    reads_hub: bool = False
    asks_endpoint: bool = False  # with the API key of this environment
    shard_tasks: "ShardWork | None" = None


class ShardWork(Protocol):
    """What a stage that is not done has prepared for it shard by shard, while others run (flows/shard_tasks.py)."""

    def __call__(self, tasks: ShardTasks, spec: PipelineSpec, inputs: Mapping[str, Path]) -> list[ShardTask]:
        """Begin it with the folders of the inputs that are there by now; return what to wait for before the stage."""
        ...


@dataclass(frozen=True)
class StageOutcome:
    """A finished stage. `folder` is absolute; `seconds` is what it took in this run; `state` is Prefect's."""

    stage: str
    folder: Path
    digest: str
    is_cached: bool
    seconds: float
    git_commit: str | None
    metrics: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    state: str = ""
    is_pruned: bool = False  # finished, but some of its files were removed since (flows/gc.py)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "StageOutcome":
        """Return a finished folder as a run sees it that reuses it."""
        return cls(
            stage=manifest.stage,
            folder=folder,
            digest=manifest.digest,
            is_cached=True,
            seconds=0.0,
            git_commit=manifest.git_commit,
            metrics=dict(manifest.metrics),
            fingerprint=manifest.fingerprint,
            is_pruned=manifest.is_pruned,
        )


class Observer(Protocol):
    """Who watches a stage that is really run: the progress bar, the tracker."""

    def started(self) -> str | None:
        """The stage's process is about to start; returns the id of its tracking run, where there is one."""
        ...

    def measured(self, lines: list[dict[str, Any]]) -> None:
        """New lines of metrics.jsonl."""
        ...


@dataclass
class Job:
    """One stage with all that it is made from. `has_run` tells whether a process was started for it.

    What it is only `measured_on` is no part of its fingerprint, nor of the inputs in its manifest. Pruned outputs count
    as done, unless it `needs_files`.
    """

    stage: Stage
    spec: PipelineSpec
    base: Path
    inputs: dict[str, StageOutcome]
    observer: Observer
    forced_by: str | None = None  # the flow run that wants it made again although it is done
    needs_files: bool = False
    has_run: bool = False
    measured_on: Mapping[str, StageOutcome] = field(default_factory=dict)

    @cached_property
    def params(self) -> StageParams:
        return self.stage.params(self.spec)

    @cached_property
    def fingerprint(self) -> str:
        return artifacts.fingerprint_of(self.stage.name, self.stage.version, self.params.output, self.input_digests)

    @property
    def input_digests(self) -> dict[str, str]:
        return {name: outcome.digest for name, outcome in self.inputs.items()}

    @property
    def folder(self) -> Path:
        return paths.artifacts_dir(self.base) / self.stage.name / self.fingerprint[:16]

    @property
    def request(self) -> StageRequest:
        root = paths.artifacts_dir(self.base)
        folders = {**self.inputs, **self.measured_on}
        return StageRequest(
            stage=self.stage.name,
            version=self.stage.version,
            fingerprint=self.fingerprint,
            params=self.params.full,
            inputs={name: outcome.folder.relative_to(root).as_posix() for name, outcome in folders.items()},
            input_digests=self.input_digests,
        )

    @property
    def is_forced(self) -> bool:
        """Tell whether it is to be made again; a retry of the flow run that has done so goes on from there."""
        mark = self.folder / FORCED
        return self.forced_by is not None and not (mark.exists() and mark.read_text() == self.forced_by)

    @property
    def newest_checkpoint(self) -> str | None:
        """The name of the checkpoint that the stage would go on from."""
        return max((path.name for path in self.folder.glob("checkpoints/step_*")), default=None)

    def valid_manifest(self) -> Manifest | None:
        """Return the manifest if the stage is finished and its outputs are as they were written."""
        manifest = artifacts.read_manifest(self.folder)
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        if self.needs_files and manifest.is_pruned:
            return None
        return None if artifacts.damaged_files(self.folder, manifest) else manifest


def cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Return the key of the stage's record in Prefect's cache."""
    job = parameters["job"]
    return f"stage-{job.stage.name}-{job.fingerprint}"


def is_worth_a_retry(_: "Task[Any, Any]", __: TaskRun, state: "State[Any]") -> bool:
    """Tell whether another try makes sense: after a lost node, a pre-emption or a stall, never after a bad spec."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.is_transient


def make_stage(job: Job) -> dict[str, Any]:
    """Return {"folder", "digest", "metrics"} of the finished stage, running it where it is not finished."""
    with locks.hold(job.folder / ".lock", on_wait=warn) as folder_lock:
        manifest = None if job.is_forced else job.valid_manifest()
        if manifest is None:
            prepare_folder(job)
            manifest = run(job, folder_lock)
    folder = job.folder.relative_to(paths.artifacts_dir(job.base)).as_posix()
    return {"folder": folder, "digest": manifest.digest, "metrics": manifest.metrics}


make = MaterializingTask(
    make_stage,
    assets=[],
    name="make",
    task_run_name="{job.stage.name}",
    persist_result=True,
    result_serializer="json",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=cache_key),
    retry_condition_fn=is_worth_a_retry,
)


def task_for(job: Job, *, is_hit: bool) -> "Task[Any, Any]":
    """Return the task for this job: its retries, its asset, and whether Prefect's record of it counts."""
    launch = job.spec.launch
    options: dict[str, Any] = {
        "retries": launch.retries,
        "retry_delay_seconds": [launch.retry_seconds * 3**attempt for attempt in range(launch.retries)],
        "assets": [asset(job, what)] if (what := what_it_makes(job.stage.name)) else [],
    }
    if not is_hit:  # refresh_cache=False would override PREFECT_TASKS_REFRESH_CACHE, so it is set only where it is True
        options["refresh_cache"] = True
    return make.with_options(**options)


def what_it_makes(stage: str) -> str | None:
    """Return what a stage makes, in words, where people look for it by itself."""
    model = made_by(stage)
    return model.what if model else ASSETS.get(stage)


def asset(job: Job, what: str) -> Asset:
    """Return what Prefect calls the output; where the server keeps assets, it draws their lineage."""
    name = f"{job.spec.recipe}: {what}"
    properties = AssetProperties(name=name, description=f"Folder {job.folder}")
    return Asset(key=f"nanochat://{job.stage.name}/{job.fingerprint[:16]}", properties=properties)


def perform(job: Job) -> StageOutcome:
    """Run the stage's task, or reuse its output if that is still whole. Raises StageFailed or another NanochatError."""
    started = time.monotonic()
    manifest = job.valid_manifest()
    is_hit = manifest is not None and not job.is_forced
    state = cast("State[Any]", task_for(job, is_hit=is_hit)(job, return_state=True))
    state.result()  # raises what the task raised
    outcome = finished(job)
    assert outcome is not None, f"{job.folder} was finished a moment ago"
    return replace(outcome, is_cached=not job.has_run, seconds=time.monotonic() - started, state=state.name or "")


def finished(job: Job) -> StageOutcome | None:
    """Return the stage's output if it is finished and whole, else None; nothing is run."""
    manifest = job.valid_manifest()
    if manifest is None:
        return None
    return StageOutcome.of(job.folder, manifest)


def prepare_folder(job: Job) -> None:
    """Leave in the folder only what the stage may continue from: nothing when forced, no damaged or pruned output."""
    manifest = artifacts.read_manifest(job.folder)
    (job.folder / "manifest.json").unlink(missing_ok=True)
    if job.is_forced:
        for path in job.folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (job.folder / FORCED).write_text(job.forced_by or "")
    elif manifest is not None:
        for record in manifest.files:
            if record.pruned:
                drop_output(job.folder, record.path)
            for problem in artifacts.damaged_files(job.folder, manifest.model_copy(update={"files": [record]})):
                warn(f"{job.stage.name} runs again: in {job.folder}, {problem}")
                drop_output(job.folder, record.path)
    artifacts.write_json(job.folder / "spec.json", job.request.model_dump(mode="json"))


def drop_output(folder: Path, name: str) -> None:
    """Remove a damaged output; of a checkpoint, all of it, so that training continues from an earlier one."""
    parts = Path(name).parts
    if parts[0] == "checkpoints" and len(parts) > 2:
        shutil.rmtree(folder / parts[0] / parts[1], ignore_errors=True)
    else:
        (folder / name).unlink(missing_ok=True)


def run(job: Job, folder_lock: int) -> Manifest:
    """Run the stage's process in its folder and finish it with a manifest. One torchrun at a time on a node."""
    job.has_run = True
    logger = get_run_logger()
    logger.info("%s works in %s", job.stage.name, job.folder)
    process = launch.StageProcess(
        name=job.stage.name,
        module=job.stage.module,
        folder=job.folder,
        launch=job.spec.launch,
        uses_torchrun=job.stage.uses_torchrun,
        keeps_hub_token=job.stage.reads_hub,
        keeps_api_key=job.stage.asks_endpoint,
        stall_minutes=(job.params.full.get("runtime") or {}).get("stall_minutes"),
    )
    if job.stage.uses_torchrun:
        train_file = paths.locks_dir(job.base) / "train.lock"
        with locks.hold(train_file, on_wait=warn) as train_lock, training_limit.shown():
            mlflow_run_id = job.observer.started()
            process.run(job.observer.measured, logger, held_locks=(folder_lock, train_lock))
    else:
        mlflow_run_id = job.observer.started()
        process.run(job.observer.measured, logger, held_locks=(folder_lock,))
    return artifacts.finish(StageFolder(job.folder), git_commit=launch.git_commit(), mlflow_run_id=mlflow_run_id)
