"""Evaluation of any model, by its name: of the newest run, of the registry, or in an artifact folder.

The stage is that of the pipeline, with the same cache: what was measured before is not measured again.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows import evaluate as evaluations
from flows.lineage import Lineage, lineage_of
from flows.model_ref import find_model
from flows.pipeline_run import PipelineRun
from flows.stage import Stage, StageOutcome
from nanochat_core import artifacts, conflicts, hardware, paths
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import EvaluateSpec, LaunchSpec, PipelineSpec, parse_params

EVALUATIONS = {
    "pretrain": evaluations.BASE,
    "midtrain": evaluations.MID,
    "sft": evaluations.CHAT,
    "rl": evaluations.AFTER_RL,
}


def name_run() -> str:
    return f"evaluate {flow_run.parameters['model']}"


@flow(name="evaluate-model", flow_run_name=name_run)
def evaluate_model(
    model: str = "sft",
    evaluate: EvaluateSpec | None = None,
    launch: LaunchSpec = LaunchSpec(),  # noqa: B008 - frozen; it fills the form in the UI
) -> StageOutcome:
    """Measure one model.

    Args:
        model: base, mid, sft or rl of the newest run; models:/NAME@alias of MLflow's registry; or an artifact folder
        evaluate: what is measured; empty: what was measured last on this model, else all that its data allows
        launch: processes and machines
    """
    base = paths.base_dir()
    lineage = lineage_of(find_model(model, base).model, base)
    spec = spec_for(lineage, evaluate or last_evaluation(lineage, base), launch)
    with PipelineRun(spec, given=lineage.outcomes) as run:
        outcome = run.outcome(stage_for(lineage))
    rows = [{"measured": name, "value": value} for name, value in score_rows(outcome)]
    create_table_artifact(rows, key="scores", description=f"{model}: {outcome.folder}")
    return outcome


def with_options(model: str, *, tasks: Sequence[str], examples: int | None, base: Path) -> EvaluateSpec:
    """Return what `nanochat eval` measures: the last evaluation of the model, with other tasks or examples.

    For a base model these are tasks of CORE.
    """
    lineage = lineage_of(find_model(model, base).model, base)
    spec = last_evaluation(lineage, base)
    kind = "core" if lineage.stage == "pretrain" else "chat"
    changes = {f"{kind}_tasks": tuple(tasks) or None, f"{kind}_examples": examples}
    return spec.model_copy(update={name: value for name, value in changes.items() if value is not None})


def stage_for(lineage: Lineage) -> Stage:
    return EVALUATIONS[lineage.stage]


def spec_for(lineage: Lineage, evaluate: EvaluateSpec, launch: LaunchSpec) -> PipelineSpec:
    """Return a pipeline that has made this model, as far as its evaluation needs it.

    Raises SpecError that lists all that cannot work, and ArtifactError where files that are needed were removed.
    """
    gpus = len(hardware.visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")))
    own = demo()
    spec = own.model_copy(
        update={
            "recipe": "unknown",
            "run_name": f"evaluate-{lineage.stage}-{lineage.model.fingerprint[:8]}",
            "task_data": lineage.task_data,
            "pretrain": own.pretrain.model_copy(update={"model": lineage.shape}),
            "midtrain": None,
            "rl": None,
            "evaluate": evaluate,
            "launch": launch,
        }
    )
    if problems := conflicts.of_evaluation(spec, is_base=lineage.stage == "pretrain", gpus=gpus):
        raise SpecError.listing(problems)
    stage = stage_for(lineage)
    for source in stage.inputs(spec).values():
        if source.name not in lineage.outcomes:
            raise ArtifactError(f"There is no {source.part} to measure on yet: `nanochat stage {source.part} RECIPE`.")
        outcome = lineage.outcomes[source.name]
        if outcome.is_pruned:
            raise ArtifactError(
                f"The files of {outcome.folder} were removed by `nanochat gc`. Make them again first: "
                f"`nanochat stage {source.part} RECIPE --force {source.part}`, with the options of then."
            )
    return spec


def last_evaluation(lineage: Lineage, base: Path) -> EvaluateSpec:
    """Return how this model was evaluated last; where it never was, all that its task data allows."""
    found = [
        manifest
        for folder in (paths.artifacts_dir(base) / stage_for(lineage).name).glob("*")
        if (manifest := artifacts.read_manifest(folder)) and manifest.inputs.get("model") == lineage.model.digest
    ]
    if found:
        params = max(found, key=lambda manifest: manifest.created).params
        return parse_params(EvaluateSpec, {name: value for name, value in params.items() if name != "model_name"})
    data = lineage.task_data
    return EvaluateSpec(
        core_examples=500 if "core" in data.datasets else 0,
        chat_tasks=conflicts.tasks_with_data(data),
        max_new_tokens=min(512, 2 * lineage.shape.sequence_len),
    )


def score_rows(outcome: StageOutcome) -> list[tuple[str, str]]:
    """Return (what, value) of each headline number, a task's accuracy with its standard error and its examples.

    >>> metrics = {"chatcore": 0.5, "accuracy/Facts": 0.75, "stderr/Facts": 0.03, "n/Facts": 500}
    >>> score_rows(StageOutcome("evaluate_sft", Path(), "", True, 0.0, None, metrics))
    [('chatcore', '0.5000'), ('Facts', '75.0% ± 3.0% of 500')]
    """
    metrics, rows = outcome.metrics, []
    for name, value in metrics.items():
        number, _, task = name.partition("/")
        if not task:
            rows.append((name, f"{value:.4f}" if isinstance(value, float) else str(value)))
        elif number == "accuracy":
            rows.append((task, f"{value:.1%} ± {metrics[f'stderr/{task}']:.1%} of {metrics[f'n/{task}']:,}"))
    return rows
