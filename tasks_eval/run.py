"""Stage evaluate_*: measure one model, with a record of each answer on disk.

    torchrun -m tasks_eval.run FOLDER/spec.json

`measures` says what: CORE, bits per byte, samples, chat tasks; the gallery comes with all. The model is a finished
stage's, or answers behind a URL (`endpoint`). Killed, the evaluation goes on where it was; the result does not depend
on the number of ranks.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import StageFolder, run_stage, write_json
from nanochat_core.distributed import World, joined_world, rank_from_environment
from nanochat_core.inference.endpoint import EndpointModel
from nanochat_core.inference.interface import GenerateRequest, TextModel
from nanochat_core.inference.load import load_text_model
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import EvaluateSpec, parse_params
from nanochat_core.training.validate import measure_bpb
from tasks_eval.blocks import Answering, Report
from tasks_eval.core.score import core_summary
from tasks_eval.gallery import FILE as GALLERY_FILE
from tasks_eval.gallery import Gallery, ask_gallery
from tasks_eval.plan import Plan, Split, plan_of
from tasks_eval.records import write_records
from tasks_eval.scores import chatcore, identity_rates
from tasks_eval.task_data import TaskData

LOGS = "log"
SAMPLE_TOKENS = 32
SAMPLE_PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
)

Scores = dict[str, Any]


def main() -> None:
    run_stage(evaluate, is_main=rank_from_environment() == 0)


def evaluate(folder: StageFolder) -> None:
    """Measure the model, write records/, gallery.json, scores.json and result.json.

    Raises NanochatError for a bad spec or data.
    """
    params = dict(folder.request.params)
    params.pop("model_name", None)
    measures, endpoint = params.pop("measures"), params.pop("endpoint", None)
    spec = parse_params(EvaluateSpec, params)
    data = TaskData.open(folder.input("task_data"))
    plan = plan_of(spec, measures, data, answers_chats=endpoint is None)
    (folder.path / "records").mkdir(exist_ok=True)
    with joined_world() as world:
        model: TextModel = EndpointModel(**endpoint) if endpoint else _model_of(folder, spec, world)
        gallery = ask_gallery(model, spec) if plan.has_gallery and world.is_main else None
        with progress(folder.path, world, plan.questions) as report:
            answering = Answering(model, world, folder.path / LOGS, report)
            scores = measure(plan, answering, folder.path)
        if plan.splits:
            if world.is_main:
                with closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
                    metrics.write(step=plan.questions, progress="measuring bits per byte")
            scores["bpb"] = _measure_bpb(folder, spec, world, plan.splits)
        if world.is_main:
            write_scores(folder, scores, gallery)
        world.barrier()


def _model_of(folder: StageFolder, spec: EvaluateSpec, world: World) -> TextModel:
    return load_text_model(
        folder.input("model"),
        folder.input("tokenizer"),
        device=world.device,
        batch_tokens=spec.batch_tokens,
        tool=spec.tool,
    )


def measure(plan: Plan, answering: Answering, folder: Path) -> Scores:
    """Answer all questions; rank 0 writes the records of each task to records/TASK.parquet. Returns the scores."""
    summaries = {}
    for questions, records in answering.answer([*plan.core, *plan.chat]):
        summaries[questions.name] = questions.summarize(records)
        if answering.world.is_main:
            write_records(folder / "records" / f"{questions.name}.parquet", records)
    scores: Scores = {"tasks": summaries}
    if plan.core:
        scores["core"] = core_summary({part.name: summaries[part.name] for part in plan.core})
    if mean := chatcore({part.name: summaries[part.name] for part in plan.chat}):
        scores["chatcore"] = mean
    if "Identity" in summaries:
        scores["identity"] = identity_rates(summaries["Identity"]["groups"])
    if plan.has_samples:
        scores["samples"] = greedy_samples(answering.model)
    return scores


def _measure_bpb(folder: StageFolder, spec: EvaluateSpec, world: World, splits: Sequence[Split]) -> dict[str, float]:
    model, tokenizer, text = (folder.input(name) for name in ("model", "tokenizer", "text"))
    return {
        split: measure_bpb(model, tokenizer, text, split, max_tokens=spec.bpb_tokens, world=world) for split in splits
    }


def greedy_samples(model: TextModel) -> list[dict[str, str]]:
    """Return greedy continuations of the fixed prompts."""
    requests = [
        GenerateRequest(text=prompt, max_new_tokens=SAMPLE_TOKENS, use_tools=False) for prompt in SAMPLE_PROMPTS
    ]
    answers = model.generate(requests)
    return [
        {"prompt": prompt, "text": row[0].raw_text or row[0].text}
        for prompt, row in zip(SAMPLE_PROMPTS, answers, strict=True)
    ]


@contextmanager
def progress(folder: Path, world: World, total: int) -> Iterator[Report]:
    """Yield what is to be called with each number of questions answered; rank 0 writes down how far all are."""
    if not world.is_main:
        yield lambda count: None
        return
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        metrics.write(step=done, total_steps=total, progress="answering questions")

    with closing(MetricsWriter(folder / "metrics.jsonl")) as metrics:
        yield report


def write_scores(folder: StageFolder, scores: Scores, gallery: Gallery | None = None) -> None:
    """Write scores.json, gallery.json and result.json, and throw the logs of the answers away."""
    outputs = [*(f"records/{name}.parquet" for name in scores["tasks"]), "scores.json"]
    write_json(folder.path / "scores.json", scores)
    if gallery is not None:
        write_json(folder.path / GALLERY_FILE, gallery)
        outputs.append(GALLERY_FILE)
    folder.write_result(headline(scores), outputs, scores)
    shutil.rmtree(folder.path / LOGS, ignore_errors=True)


def headline(scores: Scores) -> dict[str, float]:
    """Return the scores as flat metrics: core, core_stderr, chatcore, bpb_validation, identity_accuracy, decline_rate,
    accuracy/TASK, stderr/TASK, …"""
    metrics: dict[str, float] = {}
    if summary := scores.get("core"):
        name = "core" if "core" in summary else "core_partial"
        metrics |= {name: summary[name], "core_stderr": summary["stderr"]}
    metrics |= {f"bpb_{split}": value for split, value in scores.get("bpb", {}).items()}
    if summary := scores.get("chatcore"):
        metrics |= {"chatcore": summary["value"], "chatcore_stderr": summary["stderr"]}
    metrics |= {name: row["value"] for name, row in scores.get("identity", {}).items()}
    for name, row in scores["tasks"].items():
        metrics |= {f"{number}/{name}": row[number] for number in ("accuracy", "stderr", "n")}
        if curve := row.get("curve"):
            metrics[f"pass_at_{curve[-1]['samples']}/{name}"] = curve[-1]["pass"]
    return metrics


if __name__ == "__main__":
    main()
