"""Conversations of real data, and CORE's prompts, exactly as the reference makes them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_eval.core.bundle import read_bundle
from tasks_eval.core.prompts import render_prompts
from tasks_eval.task import Split, make_task
from tests.task_data import mirror_task_data

GOLDEN = Path(__file__).parent / "golden"
TASKS: dict[str, tuple[str, Split]] = {
    "ARC-Easy/test": ("ARC-Easy", "test"),
    "ARC-Challenge/train": ("ARC-Challenge", "train"),
    "MMLU/all/test": ("MMLU", "test"),
    "GSM8K/train": ("GSM8K", "train"),
    "GSM8K/test": ("GSM8K", "test"),
    "HumanEval/test": ("HumanEval", "test"),
    "SmolTalk/test": ("SmolTalk", "test"),
}

pytestmark = pytest.mark.hub


def golden(name: str) -> Iterator[dict[str, Any]]:
    with open(GOLDEN / name, encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.mark.parametrize("label", TASKS)
def test_conversations_equal_the_references(label: str, hub_mirror: Path) -> None:
    name, split = TASKS[label]
    task = make_task(name, mirror_task_data(hub_mirror), split)
    rows = [row for row in golden("conversations.jsonl") if row["task"] == label]
    assert len(rows) == 8
    for row in rows:
        example = task[row["index"]]
        expected = row["conversation"]
        assert {field: example[field] for field in expected} == expected


def test_core_prompts_equal_the_references(hub_mirror: Path) -> None:
    tasks = {task.label: task for task in read_bundle(hub_mirror / "eval_bundle")}
    items = {label: task.items() for label, task in tasks.items()}
    rows = list(golden("core_prompts.jsonl"))
    assert {row["task"] for row in rows} == set(tasks) and len(tasks) == 22
    for row in rows:
        label, index = row["task"], row["index"]
        prompts = render_prompts(tasks[label], items[label], index)
        assert [len(prompt) for prompt in prompts] == row["characters"], (label, index)
        assert [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts] == row["sha256"], (label, index)
        assert (tasks[label].kind, tasks[label].shots) == (row["type"], row["shots"])
        assert items[label][index].get("gold") == row["gold"]
