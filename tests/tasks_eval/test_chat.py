"""Asking and judging over any model."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from nanochat_core.inference.interface import Completion, Conversation, GenerateRequest, Part
from tasks_eval.chat import Sampling, score_examples, transcript
from tasks_eval.records import RecordLog, write_records
from tasks_eval.task import Task, make_task
from tasks_eval.task_data import TaskData
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


def test_a_model_that_knows_the_answers_is_right_and_one_that_does_not_is_wrong(data: TaskData) -> None:
    for name in ("GSM8K", "MMLU", "ARC-Easy", "HumanEval", "Spelling"):
        task = make_task(name, data, "test")
        indices = list(range(min(3, len(task))))
        records = score_examples(knows(task), task, indices, Sampling())
        assert [record.index for record in records] == indices
        assert all(record.correct for record in records)
        wrong = score_examples(FakeTextModel(lambda _: "no idea"), task, indices, Sampling())
        if task.kind == "generative":
            assert not any(record.correct for record in wrong)


def test_each_sample_has_a_record_with_its_number(data: TaskData) -> None:
    task = make_task("GSM8K", data, "test")
    records = score_examples(knows(task), task, [4, 2], Sampling(num_samples=3))
    assert [(record.index, record.sample) for record in records] == [(4, 0), (4, 1), (4, 2), (2, 0), (2, 1), (2, 2)]


def test_a_letter_s_record_says_how_likely_each_letter_was_and_which_part_it_belongs_to(data: TaskData) -> None:
    task = make_task("MMLU", data, "test")
    (record,) = score_examples(knows(task), task, [3], Sampling())
    assert (record.options, record.group, record.completion) == (("A", "B", "C", "D"), "sums", record.expected)
    assert math.fsum(map(math.exp, record.logprobs)) == pytest.approx(1)
    assert record.options[record.logprobs.index(max(record.logprobs))] == record.answer


def test_whether_tools_may_be_used_is_told_to_the_model(data: TaskData) -> None:
    asked: list[bool] = []

    class Watched(FakeTextModel):
        def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
            asked.extend(request.use_tools for request in requests)
            return super().generate(requests)

    for use_tools in (True, False):
        score_examples(Watched(), make_task("GSM8K", data, "test"), [0], Sampling(use_tools=use_tools))
    assert asked == [True, False]


def test_halves_of_characters_in_what_was_said_do_not_end_an_evaluation(data: TaskData, tmp_path: Path) -> None:
    """A server may send them in JSON."""

    class Broken(FakeTextModel):
        def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
            part = {"type": "text", "text": "half \ud800 #### 7"}
            return [[Completion((), (), (part,), "stop")] for _ in requests]

    task = make_task("GSM8K", data, "test")
    records = score_examples(Broken(), task, [0], Sampling())
    RecordLog(tmp_path, "GSM8K", 0).append([records])
    write_records(tmp_path / "GSM8K.parquet", records)
    assert records[0].completion == "half ? #### 7"


def test_a_transcript_shows_tool_calls_and_their_output() -> None:
    parts = [
        {"type": "text", "text": "12*7 = "},
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "84"},
    ]
    assert transcript(completion_of(parts)) == "12*7 = «12*7»‹84›84"
