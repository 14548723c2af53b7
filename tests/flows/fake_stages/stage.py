"""A stage that makes a few bytes out of its parameters and inputs, resumes like a training stage, and fails on demand.

$FAKE_LOG names a file that gets a line for each process, $FAKE_FAIL_STAGE the stage that fails half-way, in the way
that $FAKE_FAILURE says: crash, input, preempted, hang. With $FAKE_LAW, pretraining ends with the loss that the scaling
law of that JSON object has for the model and its tokens; $FAKE_FAIL_DEPTH fails the model of that depth alone. With
$FAKE_ACCURACY ({model folder's name: {task: share of right answers}}), an evaluation leaves verdicts, scores and a
gallery.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.errors import DataError, Preempted
from nanochat_core.metrics import MetricsWriter

STEPS = 4
SECRETS = {"HF_TOKEN", "MLFLOW_RUN_ID", "AWS_SECRET_ACCESS_KEY", "NANOCHAT_API_KEY"}
DETAILS = {"tasks": {}, "samples": []}
METRICS = {
    "pretrain": {"val_bpb_first": 4.0, "val_bpb_last": 2.0, "bigram_bpb": 3.0},
    "evaluate_base": {"core": 0.25},
    "rl": {"steps": 4, "reward_before": 0.25, "reward_after": 0.5, "reward_gain_low": 0.125},
}


def work(folder: StageFolder) -> None:
    """Count to STEPS in `checkpoints/step`, then write `output.bin`."""
    stage = folder.request.stage
    with open(os.environ["FAKE_LOG"], "a") as log:
        log.write(f"{stage}\n")
    print(f"secrets here: {sorted(set(os.environ) & SECRETS)}")
    metrics = MetricsWriter(folder.path / "metrics.jsonl")
    checkpoint = folder.path / "checkpoint.json"
    first = json.loads(checkpoint.read_text()) + 1 if checkpoint.exists() else 1
    for step in range(first, STEPS + 1):
        metrics.write(step, total_steps=STEPS, tokens=100 * step, **{"train/loss": 5.0 - step})
        if step == 2:
            checkpoint.write_text(json.dumps(step))
        if step == 3 and stage == os.environ.get("FAKE_FAIL_STAGE") and is_to_fail(folder):
            fail(os.environ["FAKE_FAILURE"])
    write_output(folder)


def write_output(folder: StageFolder) -> None:
    content = json.dumps([folder.request.params, folder.request.input_digests], sort_keys=True).encode()
    if os.environ.get("FAKE_NONDETERMINISTIC") == folder.request.stage:
        content += str(time.time_ns()).encode()
    (folder.path / "output.bin").write_bytes(hashlib.sha256(content).digest())
    has_verdicts = stage_is_evaluation(folder) and "FAKE_ACCURACY" in os.environ
    details = write_verdicts(folder) if has_verdicts else DETAILS
    metrics = METRICS.get(folder.request.stage, {"size": 32})
    if folder.request.stage == "pretrain" and "FAKE_LAW" in os.environ:
        metrics = metrics | {"val_bpb_last": planted_loss(folder.request.params)}
    folder.write_result(metrics, ["output.bin"], details)


def stage_is_evaluation(folder: StageFolder) -> bool:
    return folder.request.stage.startswith("evaluate_")


def write_verdicts(folder: StageFolder) -> dict[str, Any]:
    """Write what tasks_eval.run does, and return the scores.

    Of the made-up questions, a better model gets the same ones right, and more. A model behind a URL
    is called by its name there.
    """
    from tasks_eval.records import Record, write_records
    from tasks_eval.scores import summarize

    params = folder.request.params
    name = params["endpoint"]["model"] if "endpoint" in params else folder.input("model").name
    shares = json.loads(os.environ["FAKE_ACCURACY"])[name]
    (folder.path / "records").mkdir(exist_ok=True)
    tasks = {}
    for task, count in questions_of(params).items():
        right = round(shares[task] * count)
        records = [
            Record(
                i, task, prompt=f"{task} {i}", prompt_sha256=f"{task} {i}", expected="", correct=i < right, answer=""
            )
            for i in range(count)
        ]
        write_records(folder.path / "records" / f"{task}.parquet", records)
        tasks[task] = summarize(records, baseline=0.0) | {"version": 1}
    (folder.path / "scores.json").write_text(json.dumps({"tasks": tasks}))
    said = {"text": f"{name}.", "finish_reason": "stop"}
    gallery = {"answers": [{"prompt": "Who are you?", "greedy": said, "sampled": said}]}
    (folder.path / "gallery.json").write_text(json.dumps(gallery))
    return {"tasks": tasks}


def questions_of(params: dict[str, Any]) -> dict[str, int]:
    """Return {task: number of its questions}."""
    core = params["core_tasks"] or ("copa", "piqa") if "core" in params["measures"] and params["core_examples"] else ()
    chat = params["chat_tasks"] if "chat" in params["measures"] else ()
    return {task: params["core_examples"] for task in core} | {task: params["chat_examples"] for task in chat}


def planted_loss(params: dict[str, Any]) -> float:
    from nanochat_core.model.accounting import scaling_parameters
    from nanochat_core.specs import ModelSpec

    law = json.loads(os.environ["FAKE_LAW"])
    parameters = scaling_parameters(ModelSpec(**params["model"]), 2048)
    tokens = params["steps"] * params["total_batch_tokens"]
    return law["E"] + law["A"] / parameters ** law["alpha"] + law["B"] / tokens ** law["beta"]


def is_to_fail(folder: StageFolder) -> bool:
    depth = os.environ.get("FAKE_FAIL_DEPTH")
    return depth is None or folder.request.params["model"]["depth"] == int(depth)


def fail(how: str) -> None:
    if how == "crash":
        raise RuntimeError("the fake stage crashed")
    if how == "input":
        raise DataError("shard 3 is corrupt: delete it")
    if how == "preempted":
        raise Preempted("stopped at step 3 after saving.")
    Path(os.environ["FAKE_LOG"]).with_suffix(".hanging").touch()
    time.sleep(600)


if __name__ == "__main__":
    run_stage(work)
