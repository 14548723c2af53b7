"""The stage that renders conversations, run as the launcher runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, read_json, sha256_of, write_json
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.data.conversations import read_conversations
from nanochat_core.distributed import World
from nanochat_core.errors import SpecError
from nanochat_core.metrics import read_metrics
from nanochat_core.model.accounting import derive_shape
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import ModelSpec
from nanochat_core.tokenizer.render import render_conversation
from tasks_eval.build_conversations import build
from tasks_eval.grading import grade
from tests.fakes import byte_tokenizer, completion_of
from tests.tasks_eval.conftest import MINIATURE, write_task_data

MIXTURE = [{"task": "Arithmetic", "rows": 50}, {"task": "GSM8K", "epochs": 2}, {"task": "SmolTalk"}]


def stage_folder(artifacts: Path, name: str, mixture: list[dict[str, Any]], **params: Any) -> Path:
    """Write a spec.json with its inputs below `artifacts`; return the stage's folder."""
    for stage in ("task_data", "tokenizer"):
        (artifacts / stage / "x").mkdir(parents=True, exist_ok=True)
    write_task_data(artifacts / "task_data" / "x", MINIATURE)
    byte_tokenizer().save(artifacts / "tokenizer" / "x")
    folder = artifacts / "conversations_sft" / name
    folder.mkdir(parents=True)
    request = {
        "stage": "conversations_sft",
        "version": 1,
        "fingerprint": name,
        "params": {"mixture": mixture, "validation_rows": 9, **params},
        "inputs": {"task_data": "task_data/x", "tokenizer": "tokenizer/x"},
    }
    write_json(folder / "spec.json", request)
    return folder


def test_every_row_is_its_conversation_rendered_and_can_be_graded(tmp_path: Path) -> None:
    folder = stage_folder(tmp_path, "a", MIXTURE)
    build(StageFolder(folder))
    tokenizer = byte_tokenizer()
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    assert len(rows) == 50 + 2 * 8 + 6
    for row in rows:
        messages, meta = json.loads(row["messages"]), json.loads(row["meta"])
        assert (row["ids"], row["mask"]) == render_conversation(tokenizer, {"messages": messages})
        assert meta["task"] == row["source"]
        if meta["grading"]:
            assert grade(meta, completion_of(messages[-1]["content"]).text).is_correct
    assert pq.read_metadata(folder / "validation.parquet").num_rows == 9


def test_the_result_counts_rows_tokens_and_tasks_and_progress_is_written(tmp_path: Path) -> None:
    folder = stage_folder(tmp_path, "a", MIXTURE)
    build(StageFolder(folder))
    result = StageFolder(folder).read_result()
    table = pq.read_table(folder / "train.parquet")
    assert result["outputs"] == ["train.parquet", "validation.parquet"]
    assert result["metrics"]["train_rows"] == len(table)
    assert result["metrics"]["train_tokens"] == sum(len(ids) for ids in table["ids"].to_pylist())
    assert result["metrics"]["train_learned_tokens"] == sum(sum(mask) for mask in table["mask"].to_pylist())
    assert result["details"]["train"]["tasks"] == {"Arithmetic": 50, "GSM8K": 16, "SmolTalk": 6}
    last = read_metrics(folder / "metrics.jsonl")[-1]
    assert last["step"] == last["total_steps"] == 72 + 9


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path) -> None:
    folders = [stage_folder(tmp_path / name, name, MIXTURE) for name in ("a", "b")]
    for folder in folders:
        build(StageFolder(folder))
    for name in ("train.parquet", "validation.parquet"):
        assert len({sha256_of(folder / name) for folder in folders}) == 1


def test_a_sequence_is_written_in_its_order_and_is_learned_in_it(tmp_path: Path) -> None:
    folder = stage_folder(tmp_path, "a", MIXTURE, order="sequence")
    build(StageFolder(folder))
    sources = pq.read_table(folder / "train.parquet")["source"].to_pylist()
    assert sources == ["Arithmetic"] * 50 + ["GSM8K"] * 16 + ["SmolTalk"] * 6
    assert read_conversations(folder / "train.parquet", mask="assistant").in_order
    assert not read_conversations(folder / "validation.parquet", mask="assistant").in_order


def test_curation_leaves_out_training_rows_says_which_and_why_and_keeps_what_is_held_out(tmp_path: Path) -> None:
    plain, curated = (
        stage_folder(tmp_path, name, MIXTURE, curation=curation)
        for name, curation in (("plain", {}), ("curated", {"drop_duplicates": True, "match_lengths": ["GSM8K"]}))
    )
    for folder in (plain, curated):
        build(StageFolder(folder))
    assert sha256_of(plain / "validation.parquet") == sha256_of(curated / "validation.parquet")
    assert "left_out" not in StageFolder(plain).read_result()["details"]["train"]
    result = StageFolder(curated).read_result()
    details = result["details"]["train"]
    assert details["left_out"]["SmolTalk"]["held out"] == 3  # a third of what is held out; both splits are alike here
    assert details["left_out"]["GSM8K"]["held out"] == 6  # of the test split too, each given twice
    assert details["left_out"]["Arithmetic"]["length"] > 10
    assert details["length_distance_after"] < details["length_distance_before"]
    assert result["metrics"]["left_out_rows"] == details["left_out_rows"] == 50 + 2 * 8 + 6 - details["rows"]
    left = [pq.read_table(folder / "train.parquet")["messages"].to_pylist() for folder in (plain, curated)]
    assert [messages for messages in left[0] if messages in set(left[1])] == left[1]  # in the same order
    last = read_metrics(curated / "metrics.jsonl")[-1]
    assert last["step"] == last["total_steps"] == details["rows"] + 9


def test_the_conversations_that_surprise_the_base_model_most_are_left_out(tmp_path: Path) -> None:
    made = stage_folder(tmp_path, "a", [{"task": "Arithmetic", "rows": 40}], curation={"drop_worst_perplexity": 0.25})
    request = read_json(made / "spec.json")
    write_json(made / "spec.json", request | {"inputs": request["inputs"] | {"model": "pretrain/x"}})
    write_model(tmp_path / "pretrain" / "x")
    build(StageFolder(made))
    details = StageFolder(made).read_result()["details"]["train"]
    assert details["left_out"] == {"Arithmetic": {"perplexity": 10}} and details["rows"] == 30
    lines = read_metrics(made / "metrics.jsonl")
    assert lines[-1]["step"] == lines[-1]["total_steps"] == 40 + 30 + 9


def write_model(folder: Path) -> None:
    """Write an untrained model of bytes."""
    spec = derive_shape(ModelSpec(depth=1, n_embd=32, n_head=2, sequence_len=64))
    model = GPT(spec, byte_tokenizer().vocab_size)
    init_weights(model, 0)
    meta = CheckpointMeta(
        stage="pretrain",
        step=1,
        tokens=1,
        optimizer_steps=1,
        model=spec,
        vocab_size=model.vocab_size,
        precision="fp32",
        tokenizer_hash=byte_tokenizer().hash,
        data_digest="",
    )
    whole = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
    checkpoint.save(folder / "checkpoints", whole, World(0, 1, torch.device("cpu")), keep=1)


def test_an_unknown_task_in_the_mixture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Unknown task 'Spellin'"):
        build(StageFolder(stage_folder(tmp_path, "a", [{"task": "Spellin"}])))


def test_the_module_runs_by_hand_and_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    folder = stage_folder(tmp_path, "a", [{"task": "HumanEval"}])
    command = [sys.executable, "-m", "tasks_eval.build_conversations", str(folder / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    message = "HumanEval has no training split; take it out of the mixture."
    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n"
    assert json.loads((folder / "exit.json").read_text()) == {"code": 2, "message": message}
    assert not (folder / "result.json").exists()
