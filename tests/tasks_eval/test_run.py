"""The evaluation stage over a fake model: records, scores and headline numbers, on one rank and on several."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, write_json
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.distributed import World
from nanochat_core.errors import DataError, SpecError
from nanochat_core.metrics import read_metrics
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import EvaluateSpec, ModelSpec
from tasks_eval.hub import TaskData
from tasks_eval.run import Evaluation, Scores, Work, evaluate, headline, plan_base, plan_chat, progress, write_scores
from tests.fakes import FakeTextModel, byte_tokenizer
from tests.tasks_eval.conftest import MINIATURE, write_task_data
from tests.tasks_eval.core.bundle_files import write_bundle

CHAT = EvaluateSpec(chat_tasks=("Arithmetic", "Facts", "HumanEval"), chat_examples=10)


def stage_folder(path: Path) -> StageFolder:
    path.mkdir()
    write_json(path / "spec.json", {"stage": "evaluate_sft", "version": 1, "fingerprint": "x", "params": {}})
    (path / "records").mkdir()
    return StageFolder(path)


def measure(work: Work, folder: StageFolder, spec: EvaluateSpec) -> Scores:
    world = World(0, 1, torch.device("cpu"))
    model = FakeTextModel(lambda conversation: "84")
    with progress(folder.path, world, work.examples) as report:
        return work.measure(Evaluation(folder, spec, model, world, report))


def measure_chat(folder: StageFolder, spec: EvaluateSpec, data: TaskData) -> Scores:
    return measure(plan_chat(spec, data), folder, spec)


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_score_can_be_recounted_from_its_records(tmp_path: Path, data: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    scores = measure_chat(folder, CHAT, data)
    assert {name: row["n"] for name, row in scores["tasks"].items()} == {"Arithmetic": 10, "Facts": 10, "HumanEval": 3}
    for name, row in scores["tasks"].items():
        records = read_records(folder.path / "records" / f"{name}.jsonl")
        assert row["accuracy"] == sum(record["correct"] for record in records) / len(records)
        assert {"kind", "version", "seed", "stderr", "prompt_hash", "baseline"} <= set(row)
    assert scores["chatcore"]["tasks"] == list(CHAT.chat_tasks)
    assert scores["tasks"]["HumanEval"]["sandbox"].startswith("rlimits")


def test_the_result_declares_records_and_scores_and_its_headline_is_flat(tmp_path: Path, data: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    write_scores(folder, measure_chat(folder, CHAT, data))
    result = folder.read_result()
    assert result["outputs"] == [*(f"records/{name}.jsonl" for name in CHAT.chat_tasks), "scores.json"]
    assert all((folder.path / name).is_file() for name in result["outputs"])
    assert {"chatcore", "accuracy/Facts", "stderr/Facts", "n/Facts"} <= set(result["metrics"])
    assert all(isinstance(value, int | float) for value in result["metrics"].values())
    assert result["details"] == json.loads((folder.path / "scores.json").read_text())


def test_progress_counts_up_to_all_examples(tmp_path: Path, data: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    measure_chat(folder, CHAT, data)
    last = read_metrics(folder.path / "metrics.jsonl")[-1]
    assert last["step"] == last["total_steps"] == 23


def test_two_evaluations_write_equal_bytes(tmp_path: Path, data: TaskData) -> None:
    folders = [stage_folder(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_scores(folder, measure_chat(folder, CHAT, data))
    for name in folders[0].read_result()["outputs"]:
        assert len({(folder.path / name).read_bytes() for folder in folders}) == 1


@pytest.mark.parametrize("size", [2, 3])
def test_the_ranks_shares_are_disjoint_and_complete(size: int, tmp_path: Path) -> None:
    folder = stage_folder(tmp_path / "a")
    shares = [
        Evaluation(folder, CHAT, FakeTextModel(), World(rank, size, torch.device("cpu")), lambda count: None).share(10)
        for rank in range(size)
    ]
    assert sorted(index for share in shares for index in share) == list(range(10))


def test_core_runs_over_the_bundles_tasks_and_is_called_partial(tmp_path: Path, data: TaskData) -> None:
    root = write_bundle(tmp_path / "bundle")
    with_bundle = TaskData(data.folder, {**data.datasets, "core": {"root": str(root)}})
    spec = EvaluateSpec(core_examples=4, bpb_tokens=0)
    folder = stage_folder(tmp_path / "a")
    work = plan_base(spec, with_bundle)
    scores = measure(work, folder, spec)
    assert work.examples == 12
    assert scores["core"]["tasks"] == ["capitals", "pronouns", "endings"]
    assert {row["n"] for row in scores["tasks"].values()} == {4}
    assert len(scores["samples"]) == 7 and scores["bpb"] == {}
    assert "core_partial" in headline(scores) and "core" not in headline(scores)


def test_without_a_bundle_there_are_samples_and_no_core(tmp_path: Path, data: TaskData) -> None:
    spec = EvaluateSpec(bpb_tokens=0)
    scores = measure(plan_base(spec, data), stage_folder(tmp_path / "a"), spec)
    assert scores["tasks"] == {} and "core" not in scores and len(scores["samples"]) == 7


@pytest.mark.parametrize(
    ("plan", "spec", "error", "message"),
    [
        (plan_chat, EvaluateSpec(), SpecError, "chat_tasks is empty"),
        (plan_chat, EvaluateSpec(chat_tasks=("SmolTalk",)), SpecError, "SmolTalk cannot be graded"),
        (plan_chat, EvaluateSpec(chat_tasks=("GSM9K",)), SpecError, "did you mean 'GSM8K'"),
        (plan_base, EvaluateSpec(core_tasks=("copa",)), SpecError, "the CORE bundle is not there"),
    ],
)
def test_a_spec_that_cannot_be_measured_is_refused_before_a_model_is_loaded(
    plan: Callable[[EvaluateSpec, TaskData], Any],
    spec: EvaluateSpec,
    error: type[Exception],
    message: str,
    data: TaskData,
) -> None:
    with pytest.raises(error, match=message):
        plan(spec, data)


def test_a_missing_data_set_is_named_before_a_model_is_loaded(data: TaskData) -> None:
    with pytest.raises(DataError, match=r"add 'gsm8k' to task_data\.datasets"):
        plan_chat(EvaluateSpec(chat_tasks=("GSM8K",)), TaskData(data.folder, {}))


def write_model(artifacts: Path) -> None:
    """Write an untrained model of one layer, its tokenizer and the task data as finished stages."""
    for name in ("sft/x", "tokenizer/x", "task_data/x"):
        (artifacts / name).mkdir(parents=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(artifacts / "tokenizer" / "x")
    write_task_data(artifacts / "task_data" / "x", MINIATURE)
    shape = ModelSpec(depth=1, n_embd=16, n_head=1, n_kv_head=1, sequence_len=256)
    torch.manual_seed(0)
    model = GPT(shape, tokenizer.vocab_size)
    meta = CheckpointMeta(
        stage="sft",
        step=1,
        tokens=0,
        optimizer_steps=1,
        model=shape,
        vocab_size=tokenizer.vocab_size,
        precision="fp32",
        tokenizer_hash=tokenizer.hash,
        data_digest="",
    )
    weights = {name: torch.randn_like(tensor) * 0.1 for name, tensor in model.state_dict().items()}
    state = Checkpoint(meta=meta, model=weights, optimizer={}, loader={})
    checkpoint.save(artifacts / "sft" / "x" / "checkpoints", state, World(0, 1, torch.device("cpu")), keep=1)


def write_request(artifacts: Path, name: str, **changes: Any) -> Path:
    """Write spec.json for an evaluation of that model; return it."""
    params = {"model_name": "sft", "chat_tasks": ["Arithmetic", "Facts"], "chat_examples": 7, "max_new_tokens": 8}
    request = {
        "stage": "evaluate_sft",
        "version": 1,
        "fingerprint": name,
        "params": params | changes,
        "inputs": {"model": "sft/x", "tokenizer": "tokenizer/x", "task_data": "task_data/x"},
    }
    folder = artifacts / "evaluate_sft" / name
    folder.mkdir(parents=True)
    write_json(folder / "spec.json", request)
    return folder / "spec.json"


def test_a_real_model_is_evaluated_from_its_spec_file(tmp_path: Path) -> None:
    write_model(tmp_path)
    folder = StageFolder(write_request(tmp_path, "a").parent)
    evaluate(folder)
    assert folder.read_result()["metrics"]["n/Arithmetic"] == 7
    with pytest.raises(SpecError, match=r"unknown field chat_task$"):
        evaluate(StageFolder(write_request(tmp_path, "b", chat_task=["Facts"]).parent))


@pytest.mark.slow
def test_two_ranks_write_the_records_of_one(tmp_path: Path) -> None:
    write_model(tmp_path)
    specs = [write_request(tmp_path, name) for name in ("one", "two")]
    for ranks, spec in enumerate(specs, start=1):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        subprocess.run([*command, "-m", "tasks_eval.run", str(spec)], check=True, timeout=120, capture_output=True)
    for name in StageFolder(specs[0].parent).read_result()["outputs"]:
        assert len({(spec.parent / name).read_bytes() for spec in specs}) == 1
