"""The reward of RL is the verdict of the evaluation."""

from tasks_eval.rewards import answer
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData
from tests.fakes import completion_of


def test_the_reward_is_one_for_a_right_answer_and_zero_for_a_wrong_one(data: TaskData) -> None:
    for name in ("Arithmetic", "Spelling", "SimpleSpelling", "SpellingBee", "CountLetters", "GSM8K", "Facts"):
        task = make_task(name, data, "train")
        example = task[0]
        row = {"messages": example["messages"], "source": name, "meta": task.meta(example)}
        assert answer(row, completion_of(example["messages"][-1]["content"])) == 1.0
        assert answer(row, completion_of("no idea")) == 0.0


def test_a_tool_call_alone_is_no_answer(data: TaskData) -> None:
    task = make_task("Arithmetic", data, "train")
    example = task[0]
    parts = [part for part in example["messages"][-1]["content"] if part["type"] != "text"]
    assert answer({"meta": task.meta(example)}, completion_of(parts)) == 0.0
