"""Asking and judging over any model."""

from nanochat_core.inference.interface import Conversation, Part
from tasks_eval.chat import Sampling, score_examples, transcript
from tasks_eval.hub import TaskData
from tasks_eval.task import Task, make_task
from tests.fakes import FakeTextModel, completion_of


def knows(task: Task) -> FakeTextModel:
    """A model that knows the reference answers of a task."""
    answers = {
        task[index]["messages"][0]["content"]: task[index]["messages"][-1]["content"] for index in range(len(task))
    }

    def answer(conversation: Conversation) -> str | list[Part]:
        assert [message["role"] for message in conversation["messages"]] == ["user"]
        known: str | list[Part] = answers[conversation["messages"][0]["content"]]
        return known

    return FakeTextModel(answer)


def ignore(count: int) -> None:
    pass


def test_a_model_that_knows_the_answers_is_right_and_one_that_does_not_is_wrong(data: TaskData) -> None:
    for name in ("GSM8K", "MMLU", "ARC-Easy", "HumanEval", "Spelling"):
        task = make_task(name, data, "test")
        indices = list(range(min(3, len(task))))
        records = score_examples(knows(task), task, indices, Sampling(), report=ignore)
        assert [record["index"] for record in records] == indices
        assert all(record["correct"] for record in records)
        wrong = score_examples(FakeTextModel(lambda _: "no idea"), task, indices, Sampling(), report=ignore)
        if task.kind == "generative":
            assert not any(record["correct"] for record in wrong)


def test_each_sample_has_a_record_with_its_number(data: TaskData) -> None:
    task = make_task("GSM8K", data, "test")
    records = score_examples(knows(task), task, [4, 2], Sampling(num_samples=3), report=ignore)
    assert [(record["index"], record["sample"]) for record in records] == [
        (4, 0),
        (4, 1),
        (4, 2),
        (2, 0),
        (2, 1),
        (2, 2),
    ]


def test_progress_is_told_in_examples(data: TaskData) -> None:
    counts: list[int] = []
    task = make_task("Spelling", data, "test")
    score_examples(knows(task), task, range(100), Sampling(), report=counts.append)
    assert sum(counts) == 100 and len(counts) > 1


def test_a_transcript_shows_tool_calls_and_their_output() -> None:
    parts = [
        {"type": "text", "text": "12*7 = "},
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "84"},
    ]
    assert transcript(completion_of(parts)) == "12*7 = «12*7»‹84›84"
