"""Stage evaluate_*: measure one model, with a verdict for each example on disk.

    torchrun -m tasks_eval.run FOLDER/spec.json

base: CORE, bits per byte, samples. mid, sft, rl: chat tasks. Each rank answers every W-th example; rank 0 merges the
records in order, so the result does not depend on the number of ranks.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat_core.artifacts import StageFolder, run_stage, write_bytes, write_json
from nanochat_core.distributed import World, joined_world, rank_from_environment
from nanochat_core.errors import SpecError
from nanochat_core.inference.interface import GenerateRequest, TextModel
from nanochat_core.inference.load import load_text_model
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import EvaluateSpec, parse_params
from nanochat_core.training.validate import measure_bpb
from tasks_eval.chat import Sampling, score_examples
from tasks_eval.core.bundle import CoreTask, read_bundle
from tasks_eval.core.score import choose_tasks, core_summary, score_items
from tasks_eval.hub import TaskData
from tasks_eval.sandbox.jail import RLIMITS
from tasks_eval.sandbox.process import sandbox_level
from tasks_eval.scores import Record, chatcore, summarize
from tasks_eval.task import Task, make_task

CORE_VERSION = 1
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
Split = Literal["train", "validation"]  # of the text
Report = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """One run of this stage, as each rank sees it."""

    folder: StageFolder
    spec: EvaluateSpec
    model: TextModel
    world: World
    report: Report

    def share(self, count: int) -> list[int]:
        """Return this rank's indices out of range(count)."""
        return list(range(self.world.rank, count, self.world.size))

    def merge(self, name: str, records: list[Record]) -> list[Record]:
        """Return all ranks' records in order of index; rank 0 writes them to records/<name>.jsonl."""
        gathered = self.world.gather_bytes(json.dumps(records).encode())
        merged = sorted((record for data in gathered for record in json.loads(data)), key=lambda row: row["index"])
        if self.world.is_main:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in merged)
            write_bytes(self.folder.path / "records" / f"{name}.jsonl", text.encode())
        return merged


def main() -> None:
    run_stage(evaluate, is_main=rank_from_environment() == 0)


def evaluate(folder: StageFolder) -> None:
    """Measure the model, write records/, scores.json and result.json; raises NanochatError for a bad spec or data."""
    params = dict(folder.request.params)
    model_name = params.pop("model_name", None)
    spec = parse_params(EvaluateSpec, params)
    data = TaskData.open(folder.input("task_data"))
    work = plan_base(spec, data) if model_name == "base" else plan_chat(spec, data)
    (folder.path / "records").mkdir(exist_ok=True)
    with joined_world() as world:
        model = load_text_model(
            folder.input("model"), folder.input("tokenizer"), device=world.device, batch_tokens=spec.batch_tokens
        )
        with progress(folder.path, world, work.examples) as report:
            scores = work.measure(Evaluation(folder, spec, model, world, report))
        if world.is_main:
            write_scores(folder, scores)
        world.barrier()


@dataclass(frozen=True)
class Work:
    """What is to be measured: checked before a model is loaded."""

    examples: int
    measure: Callable[[Evaluation], Scores]


def plan_base(spec: EvaluateSpec, data: TaskData) -> Work:
    """Return the measuring of a base model; without a CORE bundle there is no CORE. Raises SpecError, DataError."""
    root = data.core_root() if spec.core_examples else None
    tasks = choose_tasks(read_bundle(root), spec.core_tasks) if root else []
    if root is None and spec.core_tasks:
        raise SpecError(
            "evaluate.core_tasks names tasks, but the CORE bundle is not there: add 'core' to the data sets."
        )
    items = [task.items() for task in tasks]
    counts = [min(spec.core_examples, len(rows)) for rows in items]

    def measure(run: Evaluation) -> Scores:
        scores = _measure_core(run, tasks, items, counts) if tasks else {"tasks": {}}
        return scores | {"bpb": _measure_bpb(run), "samples": greedy_samples(run.model)}

    return Work(sum(counts), measure)


def plan_chat(spec: EvaluateSpec, data: TaskData) -> Work:
    """Return the measuring of a chat model on the spec's tasks. Raises SpecError for one unknown or not gradable."""
    if not spec.chat_tasks:
        raise SpecError("evaluate.chat_tasks is empty: name at least one task.")
    tasks = [make_task(name, data, "test") for name in spec.chat_tasks]
    if ungraded := [task.name for task in tasks if task.grading is None]:
        raise SpecError(f"evaluate.chat_tasks: {', '.join(ungraded)} cannot be graded; take it out of the list.")
    counts = [min(spec.chat_examples or len(task), len(task)) for task in tasks]
    return Work(sum(counts), lambda run: _measure_chat(run, tasks, counts))


def _measure_core(
    run: Evaluation, tasks: Sequence[CoreTask], items: Sequence[list[dict[str, Any]]], counts: Sequence[int]
) -> Scores:
    summaries = {}
    for task, rows, count in zip(tasks, items, counts, strict=True):
        records = run.merge(task.label, score_items(run.model, task, rows, run.share(count), report=run.report))
        about = {"kind": task.kind, "shots": task.shots, "version": CORE_VERSION, "seed": run.spec.seed}
        summaries[task.label] = summarize(records, baseline=task.baseline) | about
    core = core_summary({label: row["centered"] for label, row in summaries.items()})
    return {"tasks": summaries, "core": core}


def _measure_bpb(run: Evaluation) -> dict[str, float]:
    """Return the bpb of both splits; empty where none was asked for."""
    if not run.spec.bpb_tokens:
        return {}
    model, tokenizer, text = (run.folder.input(name) for name in ("model", "tokenizer", "text"))
    splits: tuple[Split, ...] = ("train", "validation")
    return {
        split: measure_bpb(model, tokenizer, text, split, max_tokens=run.spec.bpb_tokens, world=run.world)
        for split in splits
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


def _measure_chat(run: Evaluation, tasks: Sequence[Task], counts: Sequence[int]) -> Scores:
    spec = run.spec
    sampling = Sampling(spec.max_new_tokens, spec.num_samples, spec.temperature, spec.top_k, spec.seed)
    summaries = {}
    for task, count in zip(tasks, counts, strict=True):
        records = run.merge(task.name, score_examples(run.model, task, run.share(count), sampling, report=run.report))
        about: dict[str, Any] = {"kind": task.kind, "version": task.version, "seed": spec.seed}
        if task.grading == "unit_tests":
            about["sandbox"] = _announced_level()
        summaries[task.name] = summarize(records, baseline=task.baseline) | about
    return {"tasks": summaries, "chatcore": chatcore(summaries)}


def _announced_level() -> str:
    """Return the sandbox's level, with a word in the log where model code could reach the network."""
    level = sandbox_level()
    if level == RLIMITS:
        print(
            "warning: the kernel grants no network namespace; model code runs with limits but with network", flush=True
        )
    return level


@contextmanager
def progress(folder: Path, world: World, total: int) -> Iterator[Report]:
    """Yield what is to be called with each number of examples done; rank 0 writes it down, counted for all ranks."""
    if not world.is_main:
        yield lambda count: None
        return
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done = min(done + count * world.size, total)
        metrics.write(step=done, total_steps=total, progress="answering questions")

    with closing(MetricsWriter(folder / "metrics.jsonl")) as metrics:
        yield report


def write_scores(folder: StageFolder, scores: Scores) -> None:
    write_json(folder.path / "scores.json", scores)
    records = [f"records/{name}.jsonl" for name in scores["tasks"]]
    folder.write_result(headline(scores), [*records, "scores.json"], scores)


def headline(scores: Scores) -> dict[str, float]:
    """Return the scores as flat metrics: core, bpb_validation, chatcore, accuracy/TASK, stderr/TASK, n/TASK."""
    metrics = {name: value for name, value in scores.get("core", {}).items() if name != "tasks"}
    metrics |= {f"bpb_{split}": value for split, value in scores.get("bpb", {}).items()}
    if "chatcore" in scores:
        metrics["chatcore"] = scores["chatcore"]["value"]
    for name, row in scores["tasks"].items():
        metrics |= {f"{number}/{name}": row[number] for number in ("accuracy", "stderr", "n")}
    return metrics


if __name__ == "__main__":
    main()
