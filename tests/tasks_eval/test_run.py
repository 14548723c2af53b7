"""The evaluation stage: plans, records, scores, headline numbers; killed and gone on with; on one rank and on two."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, write_json
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.distributed import World
from nanochat_core.errors import DataError, SpecError
from nanochat_core.inference.interface import TextModel
from nanochat_core.metrics import read_metrics
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import EvaluateSpec, ModelSpec
from tasks_eval.blocks import Answering
from tasks_eval.plan import Plan, plan_of
from tasks_eval.records import read_records
from tasks_eval.run import LOGS, Scores, evaluate, headline, measure, progress, write_scores
from tasks_eval.task_data import TaskData
from tests.fakes import FakeTextModel, byte_tokenizer
from tests.tasks_eval.conftest import MINIATURE, write_task_data
from tests.tasks_eval.core.bundle_files import write_bundle

CHAT = EvaluateSpec(chat_tasks=("Arithmetic", "Facts", "HumanEval"), chat_examples=10)


def stage_folder(path: Path) -> StageFolder:
    path.mkdir()
    write_json(path / "spec.json", {"stage": "evaluate_sft", "version": 1, "fingerprint": "x", "params": {}})
    (path / "records").mkdir()
    return StageFolder(path)


def measured(plan: Plan, folder: StageFolder, model: TextModel | None = None) -> Scores:
    world = World(0, 1, torch.device("cpu"))
    model = model or FakeTextModel(lambda conversation: "84")
    with progress(folder.path, world, plan.questions) as report:
        return measure(plan, Answering(model, world, folder.path / LOGS, report), folder.path)


def measured_chat(folder: StageFolder, data: TaskData, spec: EvaluateSpec = CHAT) -> Scores:
    return measured(plan_of(spec, ["chat"], data), folder)


def test_every_score_can_be_recounted_from_its_records(tmp_path: Path, data: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    scores = measured_chat(folder, data)
    assert {name: row["n"] for name, row in scores["tasks"].items()} == {"Arithmetic": 10, "Facts": 10, "HumanEval": 3}
    for name, row in scores["tasks"].items():
        records = read_records(folder.path / "records" / f"{name}.parquet")
        assert row["accuracy"] == sum(record.correct for record in records) / len(records)
        assert {"kind", "version", "seed", "stderr", "low", "high", "prompt_hash", "baseline"} <= set(row)
    assert scores["chatcore"]["tasks"] == list(CHAT.chat_tasks)
    assert scores["tasks"]["HumanEval"]["sandbox"] and scores["tasks"]["Arithmetic"]["tool"] == "calculator"


def test_the_result_declares_records_and_scores_and_its_headline_is_flat(tmp_path: Path, data: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    write_scores(folder, measured_chat(folder, data))
    result = folder.read_result()
    assert result["outputs"] == [*(f"records/{name}.parquet" for name in CHAT.chat_tasks), "scores.json"]
    assert all((folder.path / name).is_file() for name in result["outputs"])
    assert {"chatcore", "chatcore_stderr", "accuracy/Facts", "stderr/Facts", "n/Facts"} <= set(result["metrics"])
    assert all(isinstance(value, int | float) for value in result["metrics"].values())
    assert result["details"] == json.loads((folder.path / "scores.json").read_text())
    assert not (folder.path / LOGS).exists()


def test_who_the_model_is_and_what_it_declines_are_headlines_and_no_part_of_chatcore(
    tmp_path: Path, data: TaskData
) -> None:
    spec = CHAT.model_copy(update={"chat_tasks": ("Facts", "Identity"), "chat_examples": None})
    plan = plan_of(spec, ["chat"], data)
    model = FakeTextModel(lambda conversation: "I am nanochat.")
    scores = measured(plan, stage_folder(tmp_path / "a"), model)
    metrics = headline(scores)
    parts = scores["tasks"]["Identity"]["groups"]
    assert metrics["identity_accuracy"] == parts["identity"]["accuracy"] > 0.1
    assert (metrics["decline_rate"], metrics["false_decline_rate"]) == (0.0, 0.0)
    assert scores["identity"]["false_decline_rate"]["high"] > 0.05  # none of some thirty
    assert scores["chatcore"]["tasks"] == ["Facts"] and "accuracy/Identity" in metrics
    alone = measured(
        plan_of(spec.model_copy(update={"chat_tasks": ("Identity",), "chat_examples": 40}), ["chat"], data),
        stage_folder(tmp_path / "b"),
        model,
    )
    assert "chatcore" not in headline(alone) and headline(alone)["decline_rate"] == 0.0


def test_several_answers_to_each_question_give_a_curve_and_a_headline(tmp_path: Path, data: TaskData) -> None:
    spec = EvaluateSpec(chat_tasks=("Arithmetic",), chat_examples=5, num_samples=3, temperature=1.0)
    scores = measured_chat(stage_folder(tmp_path / "a"), data, spec)
    assert [point["samples"] for point in scores["tasks"]["Arithmetic"]["curve"]] == [1, 2, 3]
    assert "pass_at_3/Arithmetic" in headline(scores)


def test_progress_counts_up_to_all_questions(tmp_path: Path, data: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    measured_chat(folder, data)
    last = read_metrics(folder.path / "metrics.jsonl")[-1]
    assert last["step"] == last["total_steps"] == 23


def test_two_evaluations_write_equal_bytes(tmp_path: Path, data: TaskData) -> None:
    folders = [stage_folder(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_scores(folder, measured_chat(folder, data))
    for name in folders[0].read_result()["outputs"]:
        assert len({(folder.path / name).read_bytes() for folder in folders}) == 1


@pytest.fixture
def with_bundle(data: TaskData, tmp_path: Path) -> TaskData:
    root = write_bundle(tmp_path / "bundle")
    return TaskData(data.folder, {**data.datasets, "core": {"root": str(root)}})


def test_core_runs_over_the_bundles_tasks_and_is_called_partial(tmp_path: Path, with_bundle: TaskData) -> None:
    folder = stage_folder(tmp_path / "a")
    plan = plan_of(EvaluateSpec(core_examples=4, bpb_tokens=0), ["core", "bpb", "samples"], with_bundle)
    scores = measured(plan, folder)
    assert plan.questions == 12 and plan.splits == ()
    assert scores["core"]["tasks"] == ["capitals", "pronouns", "endings"] and "piqa" in scores["core"]["missing"]
    assert {row["n"] for row in scores["tasks"].values()} == {4}
    assert len(scores["samples"]) == 7 and "chatcore" not in scores
    assert "core_partial" in headline(scores) and "core" not in headline(scores)


def test_any_model_can_be_measured_on_both_kinds_of_tasks(tmp_path: Path, with_bundle: TaskData) -> None:
    spec = EvaluateSpec(core_tasks=("endings",), chat_tasks=("MMLU",), chat_examples=2, core_examples=2)
    scores = measured(plan_of(spec, ["core", "chat"], with_bundle), stage_folder(tmp_path / "a"))
    assert list(scores["tasks"]) == ["endings", "MMLU"]
    assert scores["core"]["tasks"] == ["endings"] and scores["chatcore"]["tasks"] == ["MMLU"]
    assert scores["tasks"]["MMLU"]["groups"]["sums"]["n"] == 2


def test_without_a_bundle_there_are_samples_and_no_core(tmp_path: Path, data: TaskData) -> None:
    plan = plan_of(EvaluateSpec(bpb_tokens=0), ["core", "bpb", "samples"], data)
    scores = measured(plan, stage_folder(tmp_path / "a"))
    assert scores["tasks"] == {} and "core" not in scores and len(scores["samples"]) == 7


@pytest.mark.parametrize(
    ("measures", "spec", "error", "message"),
    [
        ("chat", EvaluateSpec(), SpecError, "chat_tasks is empty"),
        ("chat", EvaluateSpec(chat_tasks=("SmolTalk",)), SpecError, "SmolTalk cannot be graded"),
        ("chat", EvaluateSpec(chat_tasks=("GSM9K",)), SpecError, "did you mean 'GSM8K'"),
        ("core", EvaluateSpec(core_tasks=("copa",)), SpecError, "the CORE bundle is not there"),
    ],
)
def test_a_spec_that_cannot_be_measured_is_refused_before_a_model_is_loaded(
    measures: Any, spec: EvaluateSpec, error: type[Exception], message: str, data: TaskData
) -> None:
    with pytest.raises(error, match=message):
        plan_of(spec, [measures], data)


def test_a_missing_data_set_is_named_before_a_model_is_loaded(data: TaskData) -> None:
    with pytest.raises(DataError, match=r"add 'gsm8k' to task_data\.datasets"):
        plan_of(EvaluateSpec(chat_tasks=("GSM8K",)), ["chat"], TaskData(data.folder, {}))


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
    params = {"measures": ["chat"], "model_name": "sft", "chat_tasks": ["Arithmetic", "Facts"], "chat_examples": 7}
    params["max_new_tokens"] = 8
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


def run_on_ranks(spec: Path, ranks: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    subprocess.run([*command, "-m", "tasks_eval.run", str(spec)], check=True, timeout=120, capture_output=True)


@pytest.mark.slow
def test_two_ranks_write_the_records_of_one(tmp_path: Path) -> None:
    write_model(tmp_path)
    specs = [write_request(tmp_path, name, chat_examples=150) for name in ("one", "two")]
    for ranks, spec in enumerate(specs, start=1):
        run_on_ranks(spec, ranks)
    for name in StageFolder(specs[0].parent).read_result()["outputs"]:
        assert len({(spec.parent / name).read_bytes() for spec in specs}) == 1


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_writes_what_it_would_have_written(tmp_path: Path) -> None:
    """Killed when a few blocks are logged, by two ranks; one log is then damaged, and one rank finishes."""
    write_model(tmp_path)
    whole, killed = (
        write_request(tmp_path, name, chat_examples=300, max_new_tokens=48) for name in ("whole", "killed")
    )
    run_on_ranks(whole, 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    logs = killed.parent / LOGS
    with subprocess.Popen([*command, "-m", "tasks_eval.run", str(killed)], start_new_session=True) as process:
        wait_for(lambda: sum(path.read_bytes().count(b"\n") for path in logs.glob("*")) >= 64)
        kill_tree(process.pid)
    assert not (killed.parent / "result.json").exists()
    kept = sorted(logs.glob("Arithmetic-*"))
    lines = kept[0].read_bytes().splitlines(keepends=True)
    kept[0].write_bytes(b"".join([lines[0].replace(b"expected", b"Expected"), *lines[1:]])[:-30])
    run_on_ranks(killed, 1)
    first = read_metrics(killed.parent / "metrics.jsonl")
    assert any(line["attempt"] == 2 and line["step"] > 0 for line in first)
    for name in StageFolder(whole.parent).read_result()["outputs"]:
        assert len({(spec.parent / name).read_bytes() for spec in (whole, killed)}) == 1, name


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_tree(pid: int) -> None:
    """Kill a process with all that it has started, at once."""
    parent = psutil.Process(pid)
    for process in [*parent.children(recursive=True), parent]:
        process.kill()
