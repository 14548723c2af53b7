"""The task CustomJSON: the user's own conversations, cut in two where their owner did not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.custom_json import make, part_of

GOOD = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def test_the_task_reads_the_files_of_the_data_set_custom(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(GOOD) + "\n")
    task = make(TaskData(tmp_path, {"custom": {"train": ["own.jsonl"]}}), "train")
    assert len(task) == 1 and task[0] == {"messages": GOOD}


def conversation(number: int) -> Conversation:
    return {"messages": [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "One."}]}


@given(st.lists(st.integers(0, 40), max_size=60).filter(lambda numbers: len(set(numbers)) > 1))
def test_equal_conversations_are_on_one_side_and_neither_side_is_empty(numbers: list[int]) -> None:
    examples = [conversation(number) for number in numbers]
    train, test = part_of(examples, "train"), part_of(examples, "test")
    assert train and test and len(train) + len(test) == len(examples)
    assert not [example for example in train if example in test]


def test_about_a_tenth_is_for_testing_and_one_conversation_alone_is_refused() -> None:
    test = part_of([conversation(number) for number in range(1000)], "test")
    assert 70 < len(test) < 130
    with pytest.raises(DataError, match="CustomJSON has 1 different conversation"):
        part_of([conversation(1)] * 3, "train")


def test_a_file_is_cut_in_two_and_two_files_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(conversation(number)) + "\n" for number in range(50)))
    whole = TaskData(tmp_path, {"custom": {"all": ["own.jsonl"]}})
    assert len(make(whole, "train")) + len(make(whole, "test")) == 50
    two = TaskData(tmp_path, {"custom": {"train": ["own.jsonl"], "test": ["own.jsonl"]}})
    assert len(make(two, "train")) == len(make(two, "test")) == 50
