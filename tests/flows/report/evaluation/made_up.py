"""Evaluations of four models as their stages leave them: answers by tasks_eval.records, scores.json as it is agreed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.stage import StageOutcome
from tasks_eval.records import Record, write_records

SUBJECTS = ("anatomy", "world_religions")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;"
MMLU_RIGHT = {"mid": 10, "sft": 20, "rl": 20}  # of 40 questions
QUESTIONS, SAMPLES = 40, 4


def question(text: str) -> tuple[str, str]:
    prompt = json.dumps([{"role": "user", "content": text}], ensure_ascii=False)
    return prompt, hashlib.sha256(prompt.encode()).hexdigest()


def mmlu(model: str) -> list[Record]:
    """Letters, in two subjects: the first questions are right."""
    records = []
    for index in range(QUESTIONS):
        prompt, digest = question(f"Which organ number {index}? {HOSTILE}")
        is_right = index < MMLU_RIGHT[model]
        records.append(
            Record(
                index,
                "MMLU",
                prompt,
                digest,
                expected="1",
                correct=is_right,
                answer="1" if is_right else "0",
                group=SUBJECTS[index % 2],
                options=("A", "B"),
                logprobs=(-2.0, -0.1) if is_right else (-0.25, -1.5),
            )
        )
    return records


def gsm8k(model: str) -> list[Record]:
    """Four answers to each of ten questions; what was written begins with the model's name."""
    records = []
    for index in range(10):
        prompt, digest = question(f"What is {index} + {index}?")
        for sample in range(SAMPLES):
            is_right = sample < index % 3
            completion = f"{model} thinks: {HOSTILE} #### {2 * index if is_right else 'x'}"
            note = "" if is_right else "no number after ####"
            answer = str(2 * index) if is_right else None
            records.append(
                Record(
                    index,
                    "GSM8K",
                    prompt,
                    digest,
                    str(2 * index),
                    is_right,
                    answer,
                    sample,
                    completion=completion,
                    note=note,
                )
            )
    return records


def copa() -> list[Record]:
    """Multiple choice of CORE: options with summed log-likelihoods and their tokens."""
    return [
        Record(
            index,
            "copa",
            f"The man fell, {index} times, because",
            f"{index:064x}",
            expected="0",
            correct=index == 0,
            answer="0" if index == 0 else "1",
            options=(" he slipped.", " it was late at night."),
            logprobs=(-4.0 - index, -6.5),
            num_tokens=(4, 5),
        )
        for index in range(3)
    ]


def summary(records: Sequence[Record], **own: Any) -> dict[str, Any]:
    accuracy = sum(record.correct for record in records) / len(records)
    count = len({record.index for record in records})
    measured = {"accuracy": accuracy, "stderr": 0.05, "low": accuracy - 0.1, "high": accuracy + 0.1, "centered": 0.2}
    asked = {"n": count, "samples": len(records) // count, "version": 2, "seed": 42, "prompt_hash": "0123456789abcdef"}
    return measured | asked | {"kind": "generative", "baseline": 0.5} | own


def chat_scores(model: str) -> dict[str, Any]:
    groups = {name: {"n": 20, "accuracy": 0.125 * place, "stderr": 0.05} for place, name in enumerate(SUBJECTS)}
    curve = [
        {"samples": 1, "pass": 0.25, "pass_stderr": 0.05, "majority": 0.25, "majority_stderr": 0.05},
        {"samples": 2, "pass": 0.4375, "pass_stderr": 0.06, "majority": 0.25, "majority_stderr": 0.05},
        {"samples": 4, "pass": 0.6, "pass_stderr": 0.07, "majority": None, "majority_stderr": None},
    ]
    tasks = {
        "MMLU": summary(mmlu(model), groups=groups),
        "GSM8K": summary(gsm8k(model), curve=curve, tool="calculator", sandbox="full", baseline=0.0),
    }
    return {"tasks": tasks, "chatcore": {"value": 0.3, "stderr": 0.0123, "tasks": list(tasks)}}


def base_scores() -> dict[str, Any]:
    core = {"core_partial": 0.1, "stderr": 0.02, "tasks": ["copa"], "missing": ["piqa", "boolq"]}
    return {"tasks": {"copa": summary(copa(), shots=0)}, "core": core, "samples": []}


def evaluation(
    base: Path, model: str, scores: Mapping[str, Any], answers: Mapping[str, Sequence[Record]]
) -> StageOutcome:
    """Write the folder of an evaluation, and return its outcome."""
    stage = f"evaluate_{model}"
    folder = base / "artifacts" / stage / "0123456789abcdef"
    (folder / "records").mkdir(parents=True)
    for task, records in answers.items():
        write_records(folder / "records" / f"{task}.parquet", records)
    metrics = {name: scores[name]["value"] for name in ("chatcore",) if name in scores}
    if "core" in scores:
        metrics["core_partial"] = scores["core"]["core_partial"]
    result = {"metrics": metrics, "outputs": [], "details": scores}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "scores.json").write_text(json.dumps(scores))
    return StageOutcome(stage, folder, "d" * 64, False, 1.0, None, metrics)


def contamination(base: Path) -> StageOutcome:
    folder = base / "artifacts" / "contamination" / "0123456789abcdef"
    folder.mkdir(parents=True)
    example = {
        "task": "MMLU",
        "index": 7,
        "part": "question",
        "share": 0.5,
        "overlap": "which <b>organ</b> number seven is the largest of them all",
        "shard": "shard_00001.parquet",
    }
    row = {"n": 40, "checked": 36, "contaminated": 2, "share": 0.05, "in_question": 1, "examples": [example]}
    shards = ["shard_00000.parquet", "shard_00001.parquet"]
    details = {"tasks": {"MMLU": row}, "ngram": 13, "shards": shards, "shards_there": 20, "characters": 1000}
    (folder / "result.json").write_text(json.dumps({"metrics": {}, "outputs": [], "details": details}))
    return StageOutcome("contamination", folder, "d" * 64, False, 1.0, None)


def evaluations(base: Path) -> list[StageOutcome]:
    """Return the outcomes of four evaluations and the contamination check."""
    chat = [
        evaluation(base, model, chat_scores(model), {"MMLU": mmlu(model), "GSM8K": gsm8k(model)})
        for model in ("mid", "sft", "rl")
    ]
    return [evaluation(base, "base", base_scores(), {"copa": copa()}), *chat, contamination(base)]
