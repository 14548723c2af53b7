"""The registry, and what holds for every task in it."""

from collections.abc import Callable

import pytest

from nanochat_core.chat_format import normalize
from nanochat_core.errors import DataError, SpecError
from tasks_eval.grading import grade
from tasks_eval.task import Split, Task, make_task, task_names
from tasks_eval.task_data import TaskData
from tests.fakes import completion_of

OF_OWN_FILES = {"CustomJSON", "Documents", "Identity"}  # each has tests of its own
TRAINING_ONLY = {"SmolTalk", "Greetings"}
MADE_WITHOUT_FILES = sorted(set(task_names()) - OF_OWN_FILES)
GRADED = sorted(set(MADE_WITHOUT_FILES) - TRAINING_ONLY)


def test_an_unknown_task_is_refused_with_the_closest_name(data: TaskData) -> None:
    with pytest.raises(SpecError, match=r"Unknown task 'Arithmetik' \(did you mean 'Arithmetic'\?\)"):
        make_task("Arithmetik", data, "train")


@pytest.mark.parametrize("name", ["GSM8K", "MMLU", "ARC-Easy", "SmolTalk", "HumanEval"])
def test_a_data_set_that_was_not_fetched_is_named_with_what_to_do(name: str, data: TaskData) -> None:
    empty = TaskData(data.folder, {})
    with pytest.raises(DataError, match=r"was not fetched .*: add '\w+' to task_data.datasets"):
        make_task(name, empty, "test")


def test_a_task_without_examples_is_refused(data: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks_eval.task.entry_points", lambda group: [NoExamples()])
    with pytest.raises(DataError, match="The task 'Empty' has no examples in its test split"):
        make_task("Empty", data, "test")


class NoExamples:
    """The entry point of a task that has nothing to ask."""

    name = "Empty"

    def load(self) -> Callable[[TaskData, Split], Task]:
        return lambda data, split: Task(self.name, "generative", split, 0, lambda index: {}, grading="exact")


@pytest.mark.parametrize("name", MADE_WITHOUT_FILES)
def test_examples_are_well_formed_and_the_same_at_each_call(name: str, data: TaskData) -> None:
    task, again = make_task(name, data, "test"), make_task(name, data, "test")
    assert task.name == name
    for index in range(min(20, len(task))):
        assert task[index] == again[index]
        messages = normalize(task[index]["messages"])
        assert messages[-1]["role"] == "assistant"
        assert task.group_field is None or isinstance(task[index][task.group_field], str)


@pytest.mark.parametrize("name", MADE_WITHOUT_FILES)
def test_an_index_outside_a_task_is_refused(name: str, data: TaskData) -> None:
    task = make_task(name, data, "test")
    with pytest.raises(IndexError):
        task[len(task)]
    with pytest.raises(IndexError):
        task[-1]


@pytest.mark.parametrize("name", GRADED)
def test_the_reference_answer_is_right_and_others_are_wrong(name: str, data: TaskData) -> None:
    task = make_task(name, data, "test")
    for index in range(min(10 if name != "HumanEval" else 1, len(task))):
        example = task[index]
        meta = task.meta(example)
        assert grade(meta, completion_of(example["messages"][-1]["content"]).text).is_correct
        for wrong in ("", "I do not know", "987654", "#### 987654", "x,y,z", "Z"):
            assert not grade(meta, wrong).is_correct


@pytest.mark.parametrize("name", sorted(TRAINING_ONLY))
def test_a_task_without_grading_cannot_be_graded(name: str, data: TaskData) -> None:
    task = make_task(name, data, "test")
    with pytest.raises(DataError, match=f"The task '{name}' has the grading None"):
        grade(task.meta(task[0]), "hello")


def test_tasks_of_several_parts_name_the_field_that_tells_them(data: TaskData) -> None:
    fields = {name: make_task(name, data, "test").group_field for name in MADE_WITHOUT_FILES}
    assert {name: field for name, field in fields.items() if field} == {
        "MMLU": "subject",
        "SimpleSpelling": "language",
        "SpellingBee": "language",
    }
