"""One run of the pipeline, or of a part of it: goes from stage to stage, and tells the terminal and MLflow."""

import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows import background, environment, launch, run_artifacts, run_lock
from flows.earlier_model import check_is_whole, with_earlier
from flows.live_view import LiveView, show_failure
from flows.progress import StageProgress, say, warn
from flows.run_names import command_of, what_is_new
from flows.shard_tasks import ShardTask, ShardTasks
from flows.stage import Job, Stage, StageOutcome, finished, perform
from flows.tracking import StageTrack, Tracker
from nanochat_core import artifacts, paths, recipes
from nanochat_core.errors import SpecError
from nanochat_core.model_chain import models_among
from nanochat_core.specs import PipelineSpec

NEWEST = "newest_run.json"
FLUSH_SECONDS = 5.0


@dataclass
class Watch:
    """Passes what happens in a stage on to the progress bar, to Prefect's UI and to the tracker."""

    progress: StageProgress
    view: LiveView
    track: StageTrack

    def started(self) -> str | None:
        self.progress.start()
        self.view.start()
        return self.track.start()

    def measured(self, lines: list[dict[str, Any]]) -> None:
        self.progress.update(lines)
        self.view.update(lines)
        self.track.log(lines)


class PipelineRun:
    """Makes stages, each at most once, their inputs first. A context manager: on leaving, MLflow has all of it.

    `sweep` is the name of the sweep that it is a run of: a tag in MLflow, and models called `base` are not of it.
    `given` are finished stages to build on, by stage, with a spec that was made to fit them and is not checked again.
    Raises SpecError for a spec that does not fit together, or cannot run here.
    """

    def __init__(
        self, spec: PipelineSpec, *, sweep: str | None = None, given: Mapping[str, StageOutcome] | None = None
    ) -> None:
        self._sweep = sweep
        self._is_newest = sweep is None and given is None  # what `sft` means from now on (flows/model_ref.py)
        self._asked = spec  # what the recipe derives is empty in it
        self.spec = spec if given is not None else recipes.runnable(spec)
        self.base = paths.base_dir()
        self._redo = "--force" if given is None else "--set again=true"
        self._given = dict(given or {})
        self.outcomes = dict(self._given)
        if given is None:
            self.spec, self.outcomes = with_earlier(self.spec, self.base)
        environment.prepare(self.base)
        self._id = str(flow_run.id or uuid.uuid4())
        self._alive = ExitStack()
        self.name = run_lock.first_name(self.base, self._id, run_name(self.spec))
        self._tracker = Tracker(self.base, self.name, spec=self.spec, tags=self._tags())
        self._shards = ShardTasks(self.spec, self.base)

    def _tags(self) -> dict[str, str]:
        tags = {
            "recipe": self.spec.recipe,
            "git_commit": launch.git_commit() or "unknown",
            "prefect_flow_run_id": self._id,
        }
        return tags | ({"sweep": self._sweep} if self._sweep else {})

    def __enter__(self) -> "PipelineRun":
        environment.keep_own_log(self.base, self.name)
        self._alive.enter_context(run_lock.alive(self.base, self._id))
        self._tracker.start()
        facts = run_artifacts.start_facts(self.base, changes=what_is_new(self._asked), git_commit=launch.git_commit())
        run_artifacts.show_start(self.name, facts)
        get_run_logger().info("%s works in %s", self.name, self.base)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._shards.close(is_abandoned=kind is not None)
        own = [outcome for stage, outcome in self.outcomes.items() if outcome is not self._given.get(stage)]
        for note in made_by_other_code(own, launch.git_commit(), self._redo):
            get_run_logger().info(note)
            if not self._sweep:
                say(note)
        self._tracker.finish("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")
        background.flush(FLUSH_SECONDS)
        self._alive.close()

    def make(self, *stages: Stage) -> None:
        """Make the stages, in order, and whatever of their inputs is missing."""
        for source in self._sources(stages):
            if source.shard_tasks and not self._is_done(source, {}):
                self._begin(source, {})
        for stage in stages:
            self.outcome(stage)

    def outcome(self, stage: Stage) -> StageOutcome:
        """Return the finished stage, making it and its inputs where they are not there yet."""
        if stage.name not in self.outcomes:
            inputs = self._make_inputs(stage)
            measured_on: dict[str, StageOutcome] = {}
            if not self._is_done(stage, inputs):
                inputs = {name: self._whole(source) for name, source in stage.inputs(self.spec).items()}
                measured_on = self._measured_on(stage)
                self._prepare(stage, inputs)
            self.outcomes[stage.name] = self._perform(stage, inputs, measured_on)
            if self._is_newest:
                self._remember()
        return self.outcomes[stage.name]

    def _make_inputs(self, stage: Stage) -> dict[str, StageOutcome]:
        """Make the inputs, in order. What the stage's shards need begins in between, as soon as it can."""
        inputs: dict[str, StageOutcome] = {}
        for name, source in stage.inputs(self.spec).items():
            if inputs:
                self._begin(stage, inputs)
            inputs[name] = self.outcome(source)
        return inputs

    def _measured_on(self, stage: Stage) -> dict[str, StageOutcome]:
        """Return what a stage that will run is measured on meanwhile, made and whole."""
        sources = stage.measured_on(self.spec)
        for source in sources.values():
            self.outcome(source)
        return {name: self._whole(source) for name, source in sources.items()}

    def _sources(self, stages: Iterable[Stage]) -> list[Stage]:
        """Return what is made from nothing of all that these stages need and is not there yet, the first needed first.

        Their shards begin to come at once, and go on coming while other stages run.
        """
        found: dict[str, Stage] = {}
        for stage in stages:
            if stage.name not in self.outcomes:
                inputs = stage.inputs(self.spec).values()
                found |= {source.name: source for source in (self._sources(inputs) if inputs else [stage])}
        return list(found.values())

    def _begin(self, stage: Stage, inputs: Mapping[str, StageOutcome]) -> list[ShardTask]:
        folders = {name: outcome.folder for name, outcome in inputs.items()}
        return stage.shard_tasks(self._shards, self.spec, folders) if stage.shard_tasks else []

    def _prepare(self, stage: Stage, inputs: Mapping[str, StageOutcome]) -> None:
        """Have the stage's shards ready, as far as tasks can do that."""
        if tasks := self._begin(stage, inputs):
            self._shards.wait(tasks, stage.name)

    def _is_done(self, stage: Stage, inputs: dict[str, StageOutcome]) -> bool:
        watch = Watch(StageProgress(stage.name), LiveView(stage.name), self._tracker.stage(stage.name))
        return (
            stage.part not in self.spec.force and finished(Job(stage, self.spec, self.base, inputs, watch)) is not None
        )

    def _whole(self, stage: Stage) -> StageOutcome:
        """Return the outcome of a stage whose files are needed: where they were pruned, it is made again."""
        if not stage.module:  # an earlier model, which none makes
            check_is_whole(self.outcomes[stage.name], stage.part)
        elif self.outcomes[stage.name].is_pruned:
            warn(f"{stage.name} runs again: what it made was removed by `nanochat gc`, and is needed now")
            inputs = {name: self._whole(source) for name, source in stage.inputs(self.spec).items()}
            self._prepare(stage, inputs)
            self.outcomes[stage.name] = self._perform(stage, inputs, self._measured_on(stage), needs_files=True)
        return self.outcomes[stage.name]

    def find(self, stage: Stage) -> StageOutcome | None:
        """Return the stage's outcome if it and its inputs are finished already; nothing is run."""
        if stage.name not in self.outcomes:
            inputs = {name: self.find(source) for name, source in stage.inputs(self.spec).items()}
            known = {name: outcome for name, outcome in inputs.items() if outcome}
            if len(known) < len(inputs):
                return None
            track = self._tracker.stage(stage.name)
            watch = Watch(StageProgress(stage.name), LiveView(stage.name), track)
            job = Job(stage, self.spec, self.base, known, watch)
            if (outcome := finished(job)) is None:
                return None
            track.describe(fingerprint=job.fingerprint, params=job.params.full, folder=job.folder)
            track.finish(outcome)
            self.outcomes[stage.name] = outcome
        return self.outcomes[stage.name]

    def _perform(
        self,
        stage: Stage,
        inputs: dict[str, StageOutcome],
        measured_on: Mapping[str, StageOutcome],
        *,
        needs_files: bool = False,
    ) -> StageOutcome:
        track, view = self._tracker.stage(stage.name), LiveView(stage.name)
        forced_by = self._id if stage.part in self.spec.force else None
        with StageProgress(stage.name) as progress:
            watch = Watch(progress, view, track)
            track.on_open = lambda url: view.link(url, f"{stage.name} in MLflow")
            job = Job(
                stage,
                self.spec,
                self.base,
                inputs,
                watch,
                forced_by=forced_by,
                needs_files=needs_files,
                measured_on=measured_on,
            )
            track.describe(fingerprint=job.fingerprint, params=job.params.full, folder=job.folder)
            try:
                outcome = perform(job)
            except BaseException as error:
                track.fail()
                self._say_how_it_ended(job, view, error)
                raise
        view.finish(f"done in {outcome.seconds:.0f} s", is_done=True)
        track.finish(outcome)
        if not outcome.is_cached:
            say(f"{outcome.stage}: done in {outcome.seconds:.0f} s")
        return outcome

    @property
    def _command(self) -> str:
        """What continues this run in a terminal; of a sweep, without its options."""
        return f"nanochat sweep {self.spec.recipe}" if self._sweep else command_of(self._asked)

    def _say_how_it_ended(self, job: Job, view: LiveView, error: BaseException) -> None:
        """Tell the UI that a stage failed, or was stopped, and where a retry goes on."""
        saved = job.newest_checkpoint
        if isinstance(error, Exception):
            view.finish("failed")
            show_failure(job.stage.name, error, self._command)
        else:
            view.finish("stopped")
            where = f"from {saved}" if saved else "from its beginning"
            get_run_logger().warning("%s was stopped. Retry goes on %s.", job.stage.name, where)

    def _remember(self) -> None:
        """Write down what the newest run has made so far: what `sft` means as a model's name (flows/model_ref.py).

        A run that has made no model does not take the place of one that has.
        """
        path = self.base / NEWEST
        known = artifacts.read_json(path)["folders"] if path.exists() else {}
        if models_among(known) and not models_among(self.outcomes):
            return
        root = paths.artifacts_dir(self.base)
        folders = {name: outcome.folder.relative_to(root).as_posix() for name, outcome in self.outcomes.items()}
        artifacts.write_json(path, {"run_name": self.name, "folders": folders})

    def report(self) -> Path:
        """Write the report of all that this run made or reused, and return its folder."""
        from flows.report.content import report  # draws plots: not every flow needs that

        folder = report(self.base, self.spec, list(self.outcomes.values()), self.name)
        run_artifacts.show_end(folder, self.outcomes)
        pages = ("report.md", "report.json", "report.html", "examples.html")
        self._tracker.log_files([folder / name for name in pages])
        return folder


def run_name(spec: PipelineSpec) -> str:
    """Return the spec's run name, else recipe, depth and time. Raises SpecError for one that cannot name a folder."""
    name = spec.run_name or f"{spec.recipe}-d{spec.pretrain.model.depth}-{time.strftime('%Y%m%d-%H%M%S')}"
    if name == "latest" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise SpecError(f"run_name {name!r} cannot name a folder: use letters, digits, '.', '_' and '-'.")
    return name


def made_by_other_code(outcomes: Iterable[StageOutcome], now: str | None, redo: str = "--force") -> list[str]:
    """Return a line for each other commit whose outputs were reused: what they are of is as old as that code.

    `redo` is the option that makes them anew.
    """
    stages: dict[str | None, list[str]] = {}
    for outcome in outcomes:
        if outcome.is_cached and outcome.git_commit != now:
            stages.setdefault(outcome.git_commit, []).append(outcome.stage)
    return [f"cached by {then}, now {now}; {redo} to redo: {', '.join(names)}" for then, names in stages.items()]


def make_stages(spec: PipelineSpec, stages: Sequence[Stage]) -> list[StageOutcome]:
    """Make some stages and what they need, as a run of its own; return all outcomes."""
    with PipelineRun(spec) as run:
        run.make(*stages)
    return list(run.outcomes.values())
