"""Both layouts of MMLU's training data."""

from pathlib import Path

import pytest

from tasks_eval.task_data import TaskData
from tasks_eval.tasks.mmlu import make
from tests.task_data import mirror_task_data
from tests.tasks_eval.conftest import MMLU_ROWS, write_task_data


def test_the_flat_and_the_nested_layout_give_equal_examples(tmp_path: Path, data: TaskData) -> None:
    flat = make(write_task_data(tmp_path, {"mmlu": {"auxiliary_train": MMLU_ROWS}}), "train")
    nested = make(data, "train")
    assert [flat[index] for index in range(10)] == [nested[index] for index in range(10)]


@pytest.mark.hub
def test_both_layouts_of_the_real_data_give_equal_examples(hub_mirror: Path) -> None:
    flat_data = mirror_task_data(hub_mirror)
    file = hub_mirror / "datasets/cais/mmlu/auxiliary_train/train-00000-of-00001.parquet"
    nested = make(TaskData(hub_mirror, {"mmlu": {"auxiliary_train": [str(file)]}}), "train")
    flat = make(flat_data, "train")
    assert len(flat) == len(nested)
    assert all(flat[index] == nested[index] for index in range(0, len(flat), 97))


@pytest.mark.hub
def test_the_real_test_questions_are_of_57_subjects(hub_mirror: Path) -> None:
    task = make(mirror_task_data(hub_mirror), "test")
    assert task.group_field == "subject"
    assert len({task[index]["subject"] for index in range(len(task))}) == 57
