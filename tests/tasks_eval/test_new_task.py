"""What docs/new_task.md says is so: its task and its grader, installed as a package would be."""

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.field_changes import parse_changes
from nanochat_core import conflicts
from nanochat_core.recipes import derive, recipe
from nanochat_core.specs import ConversationsSpec, MixtureItem, with_changes
from tasks_eval import grading
from tasks_eval.mixture import training_picks
from tasks_eval.task import make_task, task_names
from tasks_eval.task_data import TaskData

PAGE = (Path(__file__).parents[2] / "docs" / "new_task.md").read_text()
MODULES = ("backwards", "either_case")  # in the order of the page


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's files on the path, with the metadata that pip would write from its tables."""
    for name, source in zip(MODULES, code("python"), strict=True):
        (tmp_path / f"{name}.py").write_text(source)
    metadata = tmp_path / "page-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: page\nVersion: 1\n")
    lines = []
    for table in code("toml"):
        for group, points in tomllib.loads(table)["project"]["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    grading._registered.cache_clear()
    yield
    grading._registered.cache_clear()
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_task_is_found_by_its_name_and_its_answers_are_right(installed: None, data: TaskData) -> None:
    assert "Backwards" in task_names()
    train, test = make_task("Backwards", data, "train"), make_task("Backwards", data, "test")
    for task in (train, test):
        for index in range(len(task)):
            example = task[index]
            answer = example["messages"][-1]["content"]
            assert example == task[index]
            assert grading.grade(task.meta(example), answer).is_correct
            assert not grading.grade(task.meta(example), f"{answer}!").is_correct
    answers = [{task[index]["answer"] for index in range(len(task))} for task in (train, test)]
    assert not answers[0] & answers[1]


def test_the_task_is_mixed_in_and_its_name_is_accepted_in_a_spec(installed: None, data: TaskData) -> None:
    mixture = (MixtureItem(task="Backwards", rows=5), MixtureItem(task="Spelling", rows=5))
    picks = training_picks(ConversationsSpec(mixture=mixture), data)
    assert sorted(pick.task.name for pick in picks) == ["Backwards"] * 5 + ["Spelling"] * 5
    (command,) = re.findall(r"^nanochat run .*", PAGE, re.MULTILINE)
    *_, name, _, change = shlex.split(command)
    spec = derive(with_changes(recipe(name), parse_changes([change]) | {"evaluate.chat_tasks": ["Backwards"]}))
    assert spec.sft.conversations.mixture[1] == MixtureItem(task="Backwards", rows=2000)
    assert [*conflicts.conflicts(spec), *conflicts.obstacles(spec, gpus=0)] == []


def test_a_grader_of_ones_own_is_found_by_its_name(installed: None) -> None:
    assert grading.grade({"grading": "either_case", "answer": "pear"}, " PEAR\n").is_correct
    assert not grading.grade({"grading": "either_case", "answer": "pear"}, "pears").is_correct


def test_the_page_names_every_grading_that_there_is() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `grading` |")]
    assert {name for name in re.findall(r"`(\w+)`", row)} - {"grading", "None"} == set(grading.GRADERS)
