"""Reading the bundle, and naming what is wrong with it."""

import random
import shutil
from pathlib import Path

import pytest

from nanochat_core.errors import DataError
from nanochat_core.task_table import CORE_LABELS
from tasks_eval.core.bundle import LABELS, read_bundle
from tests.tasks_eval.core.bundle_files import ITEMS, write_bundle


def test_tasks_have_their_kind_shots_delimiter_and_baseline(tmp_path: Path) -> None:
    tasks = {task.label: task for task in read_bundle(write_bundle(tmp_path / "bundle"))}
    assert list(tasks) == list(ITEMS)
    capitals, endings = tasks["capitals"], tasks["endings"]
    assert (capitals.kind, capitals.shots, capitals.delimiter, capitals.baseline) == (
        "multiple_choice",
        2,
        "\nAnswer: ",
        0.5,
    )
    assert (endings.kind, endings.delimiter, endings.baseline) == ("language_modeling", " ", 0.0)


def test_items_are_shuffled_by_the_fixed_seed(tmp_path: Path) -> None:
    for task in read_bundle(write_bundle(tmp_path / "bundle")):
        expected = list(ITEMS[task.label])
        random.Random(1337).shuffle(expected)
        assert task.items() == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("3", "no JSON object"),
        ('{"query": "a", "choices": ["b"]}', "no gold, which a multiple_choice item"),
        ('{"query": "a", "choices": [], "gold": 0}', "gold is 0, the place of none of its choices"),
        ('{"query": "a", "choices": ["b"], "gold": "0"}', "gold is '0', the place of none"),
        ('{"query": "a", "choices": ["b"], "gold": -1}', "gold is -1, the place of none"),
        ('{"query": "a", "choices": [1, 2], "gold": 0}', "something else than text in query, choices"),
    ],
)
def test_a_bad_item_is_named_with_file_and_line(line: str, reason: str, tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle")
    with open(root / "eval_data" / "made" / "capitals.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"capitals\.jsonl:7: ") as caught:
        read_bundle(root)[0].items()
    assert reason in str(caught.value)


def test_a_missing_or_broken_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*core\.yaml"):
        read_bundle(tmp_path)
    root = write_bundle(tmp_path / "bundle")
    (root / "eval_meta_data.csv").write_text("Eval Task,Random baseline\ncapitals,50\n")
    with pytest.raises(DataError, match=r"pronouns .* has no random baseline"):
        read_bundle(root)
    (root / "eval_meta_data.csv").write_text("Eval Task,Random baseline\ncapitals,many\n")
    with pytest.raises(DataError, match=r"eval_meta_data\.csv: no table of random baselines"):
        read_bundle(root)
    root = write_bundle(tmp_path / "another")
    (root / "core.yaml").write_text("icl_tasks:\n- icl_task_type: schema\n")
    with pytest.raises(DataError, match="a task lacks 'label'"):
        read_bundle(root)
    (root / "core.yaml").write_text("nothing: here\n")
    with pytest.raises(DataError, match="has no list `icl_tasks`"):
        read_bundle(root)


def test_a_task_without_its_items_is_left_out(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle")
    (root / "eval_data" / "made" / "pronouns.jsonl").unlink()
    assert [task.label for task in read_bundle(root)] == ["capitals", "endings"]


def test_a_bundle_without_any_items_is_not_taken_for_one_of_no_tasks(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle")
    shutil.rmtree(root / "eval_data")
    with pytest.raises(DataError, match="the items of none of its 3 tasks"):
        read_bundle(root)


def test_the_22_labels_are_those_that_specs_are_checked_with() -> None:
    assert tuple(CORE_LABELS.split()) == LABELS and len(LABELS) == 22


@pytest.mark.hub
def test_the_real_bundle_has_the_22_tasks(hub_mirror: Path) -> None:
    assert {task.label for task in read_bundle(hub_mirror / "eval_bundle")} == set(LABELS)
