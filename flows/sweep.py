"""Sweeps: many models of one pipeline, for scaling laws. Text and tokenizer are made once, each model trained once.

One model trains after another, for a node has room for one; each is a flow run of its own below the sweep's. A model
that fails is left out of the report and named at the end, and the same sweep, run again, goes on with it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows import environment, evaluate, launch, run_lock
from flows.download import DOWNLOAD, TASK_DATA
from flows.live_view import LiveView
from flows.pipeline_run import PipelineRun, run_name
from flows.pretrain import PRETRAIN
from flows.progress import say
from flows.run_artifacts import with_pictures
from flows.stage import StageOutcome
from flows.sweep_fits import MemberResult, SweepFits, fit_sweep
from flows.sweep_report import write_sweep_report
from flows.tracking import Tracker
from flows.train_tokenizer import TOKENIZER
from nanochat_core import paths
from nanochat_core.errors import StageFailed
from nanochat_core.model_chain import CALLED
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec, with_changes
from nanochat_core.sweep_members import Member, members_of
from nanochat_core.sweep_specs import SweepSpec

# The demo's blocks at a quarter of their width: sizes that minutes on two CPU cores can tell apart.
DEMO = SweepSpec(
    kind="isoflop",
    depths=(2, 3, 4, 6),
    budgets=(1.5e11, 3e11, 6e11),
    base=with_changes(
        demo(),
        {
            "download.local_characters": 12_000_000,
            "tokenizer.vocab_size": 1024,
            "pretrain.model.n_embd": 32,
            "pretrain.total_batch_tokens": 1024,
            "pretrain.validation_every": 1000,
            "pretrain.sample_every": 10_000,
            "launch.threads_per_rank": 1,
        },
    ),
)


@dataclass(frozen=True)
class SweepResult:
    """The runs of a finished sweep, what they tell, and the folder of the report."""

    name: str
    results: list[MemberResult]
    fits: SweepFits
    report: Path


@flow(name="sweep", flow_run_name="sweep-{spec.base.recipe}-{spec.kind}")
def sweep(spec: SweepSpec = DEMO) -> SweepResult:
    """Pretrain a model for each depth and budget, fit scaling laws to their losses, and write the report."""
    members = members_of(spec)
    with opened(spec) as (name, tracker):
        text_tokens = share_text(members[0], name, with_core=spec.with_core)
        results = train_all(members, name, with_core=spec.with_core)
        fits = fit_sweep(results, text_tokens=text_tokens)
        folder = publish(spec, name, results, fits, tracker)
        if failed := [result.member.name for result in results if result.error]:
            raise StageFailed(
                f"{len(failed)} of {len(results)} runs of the sweep failed: {', '.join(failed)}. The others are in "
                f"{folder / 'report.md'}. The same sweep, run again, reuses them and goes on with the failed ones."
            )
    return SweepResult(name, results, fits, folder)


@contextmanager
def opened(spec: SweepSpec) -> Iterator[tuple[str, Tracker]]:
    """Yield the sweep's name and its run in MLflow; whatever the flow run's attempt, the name is that of the first."""
    base = paths.base_dir()
    environment.prepare(base)
    run_id = str(flow_run.id)
    own_name = spec.base.run_name or f"{spec.base.recipe}-{spec.kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    name = run_lock.first_name(base, run_id, run_name(spec.base.model_copy(update={"run_name": own_name})))
    tags = {
        "sweep": name,
        "kind": spec.kind,
        "recipe": spec.base.recipe,
        "depths": ",".join(str(depth) for depth in spec.depths),
        "budgets": ",".join(f"{budget:g}" for budget in spec.budgets),
        "git_commit": launch.git_commit() or "unknown",
        "prefect_flow_run_id": run_id,
    }
    tracker = Tracker(base, f"sweep-{name}", spec=spec.base, tags=tags)
    with run_lock.alive(base, run_id):
        tracker.start()
        try:
            yield name, tracker
        except BaseException as error:
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        tracker.finish("FINISHED")


@flow(name="sweep-text", flow_run_name="{sweep_name} text and tokenizer")
def make_text(spec: PipelineSpec, *, sweep_name: str, with_core: bool) -> list[StageOutcome]:
    """Make what the models of a sweep share."""
    with PipelineRun(spec, sweep=sweep_name) as run:
        run.make(TOKENIZER, DOWNLOAD, *([TASK_DATA] if with_core else []))
    return list(run.outcomes.values())


@flow(name="sweep-model", flow_run_name="{spec.run_name}")
def train_model(spec: PipelineSpec, *, sweep_name: str, with_core: bool) -> list[StageOutcome]:
    """Train one model of a sweep, and measure it."""
    with PipelineRun(spec, sweep=sweep_name) as run:
        run.make(PRETRAIN, *([evaluate.evaluation_of(CALLED["base"])] if with_core else []))
    return list(run.outcomes.values())


def share_text(member: Member, name: str, *, with_core: bool) -> float | None:
    """Make text and tokenizer; return about how many tokens the text has. Without them there is nothing to sweep."""
    spec = member.spec.model_copy(update={"run_name": f"{name[:90]}-text"})
    outcomes = make_text(spec, sweep_name=name, with_core=with_core)
    metrics = {outcome.stage: outcome.metrics for outcome in outcomes}
    characters, length = metrics["download"].get("train_characters"), metrics["tokenizer"].get("bytes_per_token")
    return characters / length if characters and length else None


def train_all(members: Sequence[Member], name: str, *, with_core: bool) -> list[MemberResult]:
    """Train the models one after another; one that fails does not stop the others."""
    view = LiveView("sweep")
    view.start()
    results: list[MemberResult] = []
    for number, member in enumerate(members, 1):
        say(
            f"sweep: {number} of {len(members)}, {member.name}: {member.parameters:,} parameters, "
            f"{member.tokens:,} tokens, {member.steps:,} steps"
        )
        result = train_one(member, name, with_core=with_core)
        results.append(result)
        say(f"sweep: {member.name}: " + (f"failed: {result.error}" if result.error else f"{result.bpb:.4f} bpb"))
        view.update([progress_line(number, len(members), result)])
    view.finish(f"done: {len(results)} runs", is_done=True)
    return results


def progress_line(number: int, total: int, result: MemberResult) -> dict[str, Any]:
    """Return a finished run as a line that the live view understands."""
    line = {"step": number, "total_steps": total, "time": time.time(), "progress": result.member.name}
    return line | ({"val/bpb": result.bpb} if result.bpb is not None else {})


def train_one(member: Member, name: str, *, with_core: bool) -> MemberResult:
    """Train one model, or reuse it. What went wrong is in the result; a cancelled sweep raises."""
    started = time.monotonic()
    spec = member.spec.model_copy(update={"run_name": f"{name[:70]}-{member.name}"})
    state: Any = train_model(spec, sweep_name=name, with_core=with_core, return_state=True)
    outcomes = state.result(raise_on_failure=False)
    seconds = time.monotonic() - started
    if isinstance(outcomes, BaseException):
        reason = next(iter(str(outcomes).splitlines()), "") or type(outcomes).__name__
        return MemberResult(member, error=reason, seconds=seconds)
    return replace(measured(member, outcomes), seconds=seconds)


def measured(member: Member, outcomes: Sequence[StageOutcome]) -> MemberResult:
    """Return what the stages of a run measured."""
    stages = {outcome.stage: outcome for outcome in outcomes}
    pretrained, evaluated = stages["pretrain"], stages.get("evaluate_base")
    scores = evaluated.metrics if evaluated else {}
    return MemberResult(
        member,
        bpb=float(pretrained.metrics["val_bpb_last"]),
        core=scores.get("core", scores.get("core_partial")),
        folder=f"{pretrained.folder.parent.name}/{pretrained.folder.name}",
        is_cached=pretrained.is_cached,
    )


def publish(spec: SweepSpec, name: str, results: Sequence[MemberResult], fits: SweepFits, tracker: Tracker) -> Path:
    """Write the report, show it in Prefect's UI and in MLflow; return its folder."""
    folder, plots = write_sweep_report(paths.base_dir(), name, spec, results, fits)
    pages = [folder / page for page in ("report.md", "report.json", "report.html")]
    page = with_pictures(pages[0].read_text(encoding="utf-8"), folder)
    create_markdown_artifact(page, key="sweep-report", description=name)
    tracker.log_files([*pages, *(folder / "plots" / f"{plot.name}.svg" for plot in plots)])
    tracker.log_headline({f"sweep/{name}": value for name, value in fits.metrics().items()})
    return folder
