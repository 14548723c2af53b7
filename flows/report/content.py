"""The report of a pipeline run: everything that it measured, collected from its stages' files, on one page.

    reports/<run name>/{report.json, report.md, report.html, plots/*.svg}, and reports/latest -> <run name>

examples.html lies beside them where report.html cannot hold all answers.

Every number comes from a stage's `result.json` or `metrics.jsonl`; nothing is measured here but the machine and the
size of the code. It is never cached: the same stages may belong to another run.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.launch import git_commit
from flows.left_out import left_out_in_words
from flows.report.evaluation.answers import read_evaluation
from flows.report.evaluation.content import evaluation_content
from flows.report.evaluation.page import write_pages
from flows.report.plots import plots_of
from flows.report.sections import render
from flows.stage import StageOutcome
from nanochat_core.artifacts import read_json, write_json
from nanochat_core.hardware import describe
from nanochat_core.metrics import read_metrics
from nanochat_core.model_chain import models_among
from nanochat_core.paths import reports_dir
from nanochat_core.specs import LaunchSpec, PipelineSpec

LATEST = "latest"
EVALUATE = "evaluate_"  # how the stages begin that evaluate a model
VERSIONS = ("nanochat", "torch", "prefect", "mlflow", "tokenizers", "pyarrow")
# How the names of the stages without a GPU begin.
CPU_STAGES = ("download", "task_data", "tokenizer", "conversations_", "preferences_", "contamination")
PACKAGES = ("flows", "nanochat_core", "tasks_eval", "deployments")


@dataclass(frozen=True)
class StageFiles:
    """What a finished stage left in its folder."""

    outcome: StageOutcome
    metrics: dict[str, Any]
    details: dict[str, Any]
    lines: list[dict[str, Any]]


def report(base: Path, spec: PipelineSpec, outcomes: Sequence[StageOutcome], run_name: str) -> Path:
    """Write the report of a run and point `latest` at it; return its folder.

    `run_name` names a folder (flows/pipeline_run.py checks that). Raises ArtifactError where a stage has no result.
    """
    stages = {outcome.stage: read_stage(outcome) for outcome in outcomes}
    evaluations = [read_evaluation(model, files.outcome.folder) for model, files in evaluations_of(stages).items()]
    collected = collect(spec, stages, run_name) | evaluation_content(spec.recipe, evaluations)
    plots = [plot for name, files in stages.items() for plot in plots_of(name, files.lines, files.metrics)]
    folder = reports_dir(base) / run_name
    write_pages(folder, render(collected, plots, evaluations))
    write_json(folder / "report.json", collected)
    point_latest_at(folder)
    return folder


def point_latest_at(folder: Path) -> None:
    """Make `latest` beside `folder` a link to it, by rename: a reader never finds it missing."""
    temporary = folder.with_name(f".{LATEST}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    temporary.replace(folder.with_name(LATEST))


def read_stage(outcome: StageOutcome) -> StageFiles:
    """Read a finished stage's result and metrics; raises ArtifactError where there is no result."""
    result = read_json(outcome.folder / "result.json")
    return StageFiles(outcome, result["metrics"], result["details"], read_metrics(outcome.folder / "metrics.jsonl"))


def collect(spec: PipelineSpec, stages: Mapping[str, StageFiles], run_name: str) -> dict[str, Any]:
    """Return the content of report.json, but for `evaluation_content`. A stage that did not run has no entry."""
    evaluations = evaluations_of(stages)
    numbers = {
        model.stage: stages[model.stage].metrics
        | (flat_scores(evaluations[model.name]) if model.name in evaluations else {})
        for model in models_among(stages)
    }
    if "pretrain" in stages:
        numbers["pretrain"]["bpb_by_position"] = stages["pretrain"].details.get("bpb_by_position", {})
    seconds = {name: wall_seconds(files) for name, files in stages.items()}
    return {
        "run": {"name": run_name, "recipe": spec.recipe},
        "header": header(spec, stages, seconds),
        "stages": {name: stage_entry(files, seconds[name]) for name, files in stages.items()},
        "data": data_entry(spec, stages),
        "tokenizer": tokenizer_entry(stages["tokenizer"]) if "tokenizer" in stages else {},
        **numbers,
        "contamination": contamination_entry(stages),
        "code": code_size(),
    }


def evaluations_of(stages: Mapping[str, StageFiles]) -> dict[str, StageFiles]:
    """Return {model: its evaluation}, in the order of the stages, which is that of training."""
    return {name.removeprefix(EVALUATE): files for name, files in stages.items() if name.startswith(EVALUATE)}


def contamination_entry(stages: Mapping[str, StageFiles]) -> dict[str, Any]:
    """Return what the stage "contamination" found, or an evaluation that looked itself; empty where nobody did."""
    found = [stages["contamination"].details] if "contamination" in stages else []
    found += [files.details.get("contamination", {}) for files in evaluations_of(stages).values()]
    return next(filter(None, found), {})


def header(spec: PipelineSpec, stages: Mapping[str, StageFiles], seconds: Mapping[str, float | None]) -> dict[str, Any]:
    """Return where, with what and for how long the run ran, and what that cost."""
    hardware = describe()
    gpu_seconds = sum(seconds[name] or 0 for name in stages if not name.startswith(CPU_STAGES))
    return {
        "git_commit": git_commit(),
        "hardware": asdict(hardware) | {"summary": hardware.summary},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
        "wall_clock_seconds": dict(seconds),
        "total_seconds": sum(value or 0 for value in seconds.values()),
        "cost": cost(spec.launch, len(hardware.gpus), gpu_seconds),
    }


def cost(launch: LaunchSpec, gpus: int, gpu_seconds: float) -> dict[str, float]:
    """Return the GPU hours that the stages held, and their price; both are 0 without a GPU."""
    used = 0 if launch.device in {"cpu", "mps"} else min(gpus, launch.nproc_per_node or gpus) * launch.nnodes
    hours = used * gpu_seconds / 3600
    price = launch.gpu_hour_dollars
    return {"gpus": used, "gpu_hours": hours, "gpu_hour_dollars": price, "dollars": hours * price}


def wall_seconds(files: StageFiles) -> float | None:
    """Return how long the stage worked, over all its attempts but without the gaps between them.

    A cached stage counts with what its metrics tell of the run that made it; None where it wrote none.
    """
    by_attempt: dict[int, list[float]] = {}
    for line in files.lines:
        by_attempt.setdefault(line["attempt"], []).append(line["time"])
    measured = sum(max(times) - min(times) for times in by_attempt.values())
    if files.outcome.is_cached:
        return measured or None
    return max(files.outcome.seconds, measured)


def stage_entry(files: StageFiles, seconds: float | None) -> dict[str, Any]:
    outcome = files.outcome
    return {
        "folder": f"{outcome.folder.parent.name}/{outcome.folder.name}",
        "digest": outcome.digest,
        "cached": outcome.is_cached,
        "state": outcome.state,
        "git_commit": outcome.git_commit,
        "seconds": seconds,
        "metrics": files.metrics,
    }


def data_entry(spec: PipelineSpec, stages: Mapping[str, StageFiles]) -> dict[str, Any]:
    """Return what the run learned from: the text, and the conversations of each chat stage."""
    entry: dict[str, Any] = {"source": spec.download.source}
    if spec.download.source == "hub":
        entry["dataset"] = spec.download.dataset
    for name, prefix in (("download", "text"), ("task_data", "task_data")):
        if name in stages:
            entry |= {f"{prefix}_{key}": value for key, value in stages[name].metrics.items()}
    for name, files in stages.items():
        if name.startswith("conversations_"):
            entry |= {f"{name}_{key}": value for key, value in files.metrics.items()}
            if left_out := files.details.get("train", {}).get("left_out"):
                entry[f"{name}_left_out"] = left_out_in_words(left_out)
    return entry


def tokenizer_entry(files: StageFiles) -> dict[str, Any]:
    """Return the vocabulary's figures and, where the stage made one, its comparison with other vocabularies."""
    return files.metrics | {key: files.details[key] for key in ("comparison",) if key in files.details}


def flat_scores(evaluation: StageFiles) -> dict[str, Any]:
    """Return an evaluation's headline numbers under names without blanks or slashes.

    "accuracy/ARC-Easy" becomes "arc_easy_accuracy"; "core" and "chatcore" stay, and so does "identity_accuracy",
    which is that of one part of the task Identity.
    """
    flat = {}
    for name, value in evaluation.metrics.items():
        number, _, task = name.partition("/")
        if task:
            flat[f"{task.lower().replace('-', '_')}_{number}"] = value
    return flat | {name: value for name, value in evaluation.metrics.items() if "/" not in name}


def code_size() -> dict[str, dict[str, int]]:
    """Return {package: {"files", "lines"}} of the Python code that is running."""
    root = Path(__file__).parents[2]
    sizes = {}
    for package in PACKAGES:
        files = sorted((root / package).rglob("*.py"))
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        sizes[package] = {"files": len(files), "lines": lines}
    return sizes
