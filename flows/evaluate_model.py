"""Evaluation of any model: of the newest run, of the registry, in an artifact folder, or behind a URL; and of two
models on the same questions.

The stage is that of the pipeline, with the same cache: what was measured before is not measured again. Only a model
behind a URL is asked anew each time (flows/evaluation/endpoint.py).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows.download import TASK_DATA
from flows.evaluate import OF_CHAT, Measure, evaluation_of, usual_measures
from flows.evaluation import endpoint
from flows.evaluation.endpoint import Endpoint, is_url
from flows.evaluation.paired import Pair, keep_differences, pairs_of
from flows.evaluation.paired_table import table_rows
from flows.evaluation.request import CORE_EXAMPLES, Asked, asked_of
from flows.evaluation.task_data import AskedData, data_for
from flows.lineage import Lineage, lineage_of
from flows.model_ref import find_model, short_name
from flows.pipeline_run import PipelineRun
from flows.stage import Stage, StageOutcome
from nanochat_core import artifacts, conflicts, hardware, paths
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.model_chain import Model, base_alone, made_by
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import EvaluateSpec, LaunchSpec, PipelineSpec

Target = Lineage | Endpoint  # a model that can be asked


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation, the page that shows each of its answers and, where it was held against another, the paired
    differences, the overall one last, and the other model's evaluation."""

    outcome: StageOutcome
    page: Path
    pairs: Sequence[Pair] = ()
    other: StageOutcome | None = None


def name_run() -> str:
    return f"evaluate {flow_run.parameters['model']}"


@flow(name="evaluate-model", flow_run_name=name_run)
def evaluate_model(
    model: str = "sft",
    evaluate: EvaluateSpec | None = None,
    tasks: list[str] | None = None,
    against: str | None = None,
    task_data: str | None = None,
    launch: LaunchSpec = LaunchSpec(),  # noqa: B008 - frozen; it fills the form in the UI
    again: bool = False,
) -> Evaluated:
    """Measure one model, or two on the same questions.

    Args:
        model: base, mid, sft, rl or the name of a stage of the newest run; models:/NAME@alias of MLflow's registry; an
            artifact folder; or the address of a server with OpenAI's API, https://…#NAME
        evaluate: how it is measured; empty: as last on this model, else with all that its data allows
        tasks: what is measured: CORE, tasks of CORE, chat tasks, bpb, samples; empty: as evaluate says
        against: another model, which is asked the same
        task_data: folder of the stage task_data that the questions are from; empty: the model's own, else fetched
        launch: processes and machines
        again: measure anew what was measured already, for example with another version of a task
    """
    base = paths.base_dir()
    target = find_target(model, base, needs_data=not tasks)
    rival = find_target(against, base, needs_data=False) if against else None
    asked = what_is_asked(target, tasks or [], evaluate, base)
    given = Path(task_data).expanduser() if task_data else None
    data = data_for(asked.datasets, base, own=own_data(target, rival), given=given)
    for side, reference in ((target, model), (rival, against)):
        if side is not None and reference is not None:
            check_target(side, reference, asked, data, launch)
    outcome = measure(target, asked, data, launch, again=again)
    rows = [{"measured": name, "value": value} for name, value in score_rows(outcome.metrics, scores_of(outcome))]
    create_table_artifact(rows, key="scores", description=f"{model}: {outcome.folder}")
    if rival is None or against is None:
        return Evaluated(outcome, write_page(base, {model: outcome}))
    other = evaluate_model(
        against,
        asked.spec,
        tasks_for(rival, asked),
        task_data=str(StageFolder(outcome.folder).input("task_data")),
        launch=launch,
        again=again,
    )
    page = write_page(base, {against if against != model else f"{against} (the other)": other.outcome, model: outcome})
    return Evaluated(outcome, page, compare(outcome, other.outcome, model, against), other.outcome)


def find_target(reference: str, base: Path, *, needs_data: bool = True) -> Target:
    """Return the model of this name. Raises NanochatError where there is none, or none that can be asked."""
    if is_url(reference):
        return endpoint.connect(reference)
    return lineage_of(find_model(reference, base).model, base, needs_data=needs_data)


def what_is_asked(target: Target, tasks: Sequence[str], evaluate: EvaluateSpec | None, base: Path) -> Asked:
    """Return the measures and how they are taken. Raises SpecError for a task that nobody knows."""
    if evaluate is not None:
        asked = Asked(usual_of(target), evaluate)
    elif isinstance(target, Lineage):
        asked = last_evaluation(target, base)
    else:
        asked = endpoint.last_asked(target, base, needs_one=not tasks)
    return asked.named(tasks) if tasks else asked


def model_of(lineage: Lineage) -> Model:
    """Return which model of a pipeline this is. Raises ArtifactError for one that says nothing."""
    model = made_by(lineage.stage)
    if model is None or not model.is_speaking:
        raise ArtifactError(f"{lineage.model.folder} holds the output of {lineage.stage}, which cannot be evaluated.")
    return model


def usual_of(target: Target) -> tuple[Measure, ...]:
    """Return how a model is measured where nothing else was said."""
    return usual_measures(model_of(target)) if isinstance(target, Lineage) else OF_CHAT


def tasks_for(target: Target, asked: Asked) -> list[str] | None:
    """Return the names that ask another model the same, besides the spec; None where its usual measures are meant."""
    if isinstance(target, Lineage) and asked.measures == usual_of(target):
        return None
    return asked.tasks


def own_data(*targets: Target | None) -> list[StageOutcome]:
    """Return the task data that the models were made or measured with."""
    lineages = [target for target in targets if isinstance(target, Lineage)]
    return [lineage.outcomes["task_data"] for lineage in lineages if "task_data" in lineage.outcomes]


def last_evaluation(lineage: Lineage, base: Path) -> Asked:
    """Return how this model was evaluated last; where it never was, all that its task data allows."""
    model, otherwise = model_of(lineage), default_spec(lineage)
    found = [
        manifest
        for folder in (paths.artifacts_dir(base) / f"evaluate_{model.name}").glob("*")
        if (manifest := artifacts.read_manifest(folder)) and manifest.inputs.get("model") == lineage.model.digest
    ]
    if not found:
        return Asked(usual_measures(model), otherwise)
    params = max(found, key=lambda manifest: manifest.created).params
    return asked_of(params, usual_measures(model), otherwise)


def default_spec(lineage: Lineage) -> EvaluateSpec:
    """Return all that the model's own task data allows."""
    answer_tokens = min(512, 2 * lineage.shape.sequence_len)
    if "task_data" not in lineage.outcomes:
        return EvaluateSpec(max_new_tokens=answer_tokens)
    data = lineage.task_data
    return EvaluateSpec(
        core_examples=CORE_EXAMPLES if "core" in data.datasets else 0,
        chat_tasks=conflicts.tasks_with_data(data),
        max_new_tokens=answer_tokens,
    )


def check_target(target: Target, reference: str, asked: Asked, data: AskedData, launch: LaunchSpec) -> None:
    """Raise NanochatError that lists why the model cannot be asked this."""
    spec_for(target, asked, data, launch)
    if isinstance(target, Lineage):
        check_inputs(stage_for(target, asked), target)
    else:
        endpoint.connect(reference, asked)


def stage_for(lineage: Lineage, asked: Asked) -> Stage:
    return evaluation_of(model_of(lineage), asked.measures)


def spec_for(target: Target, asked: Asked, data: AskedData, launch: LaunchSpec) -> PipelineSpec:
    """Return a pipeline that has made this model, as far as its evaluation needs it.

    Raises SpecError that lists all that cannot work.
    """
    gpus = len(hardware.visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")))
    own, has_lineage = base_alone(demo()), isinstance(target, Lineage)
    shape = target.shape if isinstance(target, Lineage) else own.pretrain.model
    name = f"{target.stage}-{target.model.fingerprint[:8]}" if isinstance(target, Lineage) else target.short_name
    spec = own.model_copy(
        update={
            "recipe": "unknown",
            "run_name": f"evaluate-{name}",
            "task_data": data.spec,
            "pretrain": own.pretrain.model_copy(update={"model": shape}),
            "evaluate": asked.spec,
            "launch": launch,
        }
    )
    if problems := conflicts.of_evaluation(spec, asked.measures, gpus=gpus, knows_context=has_lineage):
        raise SpecError.listing(problems)
    return spec


def check_inputs(stage: Stage, lineage: Lineage) -> None:
    """Raise ArtifactError where files that the evaluation needs were removed, or were never made."""
    for source in stage.inputs(demo()).values():
        if source is TASK_DATA:
            continue
        if source.name not in lineage.outcomes:
            raise ArtifactError(f"There is no {source.part} to measure on yet: `nanochat stage {source.part} RECIPE`.")
        outcome = lineage.outcomes[source.name]
        if outcome.is_pruned:
            raise ArtifactError(
                f"The files of {outcome.folder} were removed by `nanochat gc`. Make them again first: "
                f"`nanochat stage {source.part} RECIPE --force {source.part}`, with the options of then."
            )


def measure(target: Target, asked: Asked, data: AskedData, launch: LaunchSpec, *, again: bool = False) -> StageOutcome:
    """Return the finished evaluation, as a run of its own; task data that is not there is fetched first."""
    given = dict(target.outcomes) if isinstance(target, Lineage) else {}
    given.pop("task_data", None)
    if data.outcome is not None:
        given["task_data"] = data.outcome
    spec = spec_for(target, asked, data, launch)
    if again:
        spec = spec.model_copy(update={"force": ("evaluate",)})
    with PipelineRun(spec, given=given) as run:
        if isinstance(target, Lineage):
            return run.outcome(stage_for(target, asked))
        digest = run.outcome(TASK_DATA).digest
        return run.outcome(endpoint.stage_of(target, asked, digest, paths.base_dir()))


def compare(outcome: StageOutcome, other: StageOutcome, model: str, against: str) -> list[Pair]:
    """Return the paired differences; they are kept beside the scores, and shown in Prefect's UI."""
    names = short_of(model), short_of(against)
    pairs = pairs_of(other.folder, outcome.folder, names=(names[1], names[0]))
    path = keep_differences(pairs, outcome.folder, other.folder, model=model, against=against)
    about = f"{model} against {against} on the same questions, with 95% intervals: {path}"
    create_table_artifact(table_rows(pairs, *names), key="differences", description=about)
    return pairs


def short_of(reference: str) -> str:
    """Return what a model is called in a table.

    >>> short_of("http://127.0.0.1:8000/v1#nano"), short_of("/base/artifacts/sft/0123456789abcdef")
    ('127.0.0.1:8000/v1#nano', 'sft/0123456789abcdef')
    """
    return reference.partition("//")[2] if is_url(reference) else short_name(reference)


def write_page(base: Path, outcomes: Mapping[str, StageOutcome]) -> Path:
    """Write reports/evaluations/<model>/<its fingerprint>[-<that of the other>]/report.html, and return it.

    `outcomes`: {what a model is called: its evaluation}; the last is the one that was asked for.
    """
    from flows.report.evaluation.answers import read_evaluation  # draws plots: not every flow needs that
    from flows.report.evaluation.page import write_evaluation_page

    evaluations = [read_evaluation(short_of(name), outcome.folder) for name, outcome in outcomes.items()]
    *others, own = (outcome.folder for outcome in outcomes.values())
    name = "-".join(folder.name for folder in (own, *others))
    title = " against ".join(evaluation.model for evaluation in reversed(evaluations))
    return write_evaluation_page(paths.reports_dir(base) / "evaluations" / own.parent.name / name, title, evaluations)


def scores_of(outcome: StageOutcome) -> dict[str, Any]:
    """Return what scores.json says."""
    scores: dict[str, Any] = artifacts.read_json(outcome.folder / "result.json")["details"]
    return scores


def score_rows(metrics: Mapping[str, Any], scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, value): means with standard error, rates and tasks with 95 % interval and number of questions.

    >>> metrics = {"core_partial": 0.5, "core_stderr": 0.02, "accuracy/Facts": 0.75, "pass_at_8/Facts": 0.875}
    >>> score_rows(metrics, {"tasks": {"Facts": {"accuracy": 0.75, "low": 0.71, "high": 0.79, "n": 500}}})
    [('core_partial', '0.5000, s.e. 0.0200'), ('Facts', '75.0% (71.0 to 79.0) of 500'), ('Facts, pass@8', '87.5%')]
    """
    rows, rates = [], scores.get("identity", {})
    for name, value in metrics.items():
        number, _, task = name.partition("/")
        if name in rates:
            rows.append((name, with_interval(value, rates[name])))
        elif not task and not number.endswith("_stderr"):
            error = metrics.get(f"{number.removesuffix('_partial')}_stderr")
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            rows.append((name, f"{shown}, s.e. {error:.4f}" if isinstance(error, float) else shown))
        elif number == "accuracy":
            rows.append((task, with_interval(value, scores["tasks"][task])))
        elif number.startswith("pass_at_"):
            rows.append((f"{task}, pass@{number.removeprefix('pass_at_')}", f"{value:.1%}"))
    return rows


def with_interval(value: float, row: Mapping[str, Any]) -> str:
    return f"{value:.1%} ({100 * row['low']:.1f} to {100 * row['high']:.1f}) of {row['n']:,}"
