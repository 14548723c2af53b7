"""Answering in blocks: who gets which, and what happens to what was answered before a crash."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.inference.interface import TextModel
from tasks_eval.blocks import BLOCK, Answering, QuestionSet
from tasks_eval.records import Record, RecordLog
from tests.fakes import FakeTextModel

SAMPLES = 2


class Asked:
    """Questions whose answers tell how often each was asked; breaks when it is asked for the block `breaks_at`."""

    def __init__(
        self, name: str, count: int, breaks_at: int | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        self.blocks: list[list[int]] = []
        self.breaks_at = breaks_at
        self.questions = QuestionSet(name, count, 0.0, self._ask, settings or {})

    def _ask(self, model: TextModel, indices: Sequence[int]) -> list[Record]:
        if len(self.blocks) == self.breaks_at:
            raise RuntimeError("the power is gone")
        self.blocks.append(list(indices))
        return [
            Record(index, self.questions.name, "?", "", "yes", True, "yes", sample=sample)
            for index in indices
            for sample in range(SAMPLES)
        ]


def answered(logs: Path, *sets: Asked, reports: list[int] | None = None, world: World | None = None) -> dict[str, int]:
    """Answer all questions on one rank; return how many records each task has, which must be whole and in order."""
    world = world or World(0, 1, torch.device("cpu"))
    report = (lambda count: None) if reports is None else reports.append
    found = {}
    for questions, records in Answering(FakeTextModel(), world, logs, report).answer([own.questions for own in sets]):
        expected = [(index, sample) for index in range(questions.count) for sample in range(SAMPLES)]
        assert [(record.index, record.sample) for record in records] == expected
        found[questions.name] = len(records)
    return found


def test_every_question_is_asked_once_and_told_of(tmp_path: Path) -> None:
    one, two, reports = Asked("one", 2 * BLOCK + 5), Asked("two", 3), []
    assert answered(tmp_path, one, two, reports=reports) == {"one": SAMPLES * one.questions.count, "two": SAMPLES * 3}
    assert one.blocks == [list(range(BLOCK)), list(range(BLOCK, 2 * BLOCK)), list(range(2 * BLOCK, 2 * BLOCK + 5))]
    assert sum(reports) == one.questions.count + 3


def test_after_a_crash_only_what_was_not_answered_is_asked(tmp_path: Path) -> None:
    broken, reports = Asked("one", 4 * BLOCK, breaks_at=2), []
    with pytest.raises(RuntimeError, match="power"):
        answered(tmp_path, broken)
    again = Asked("one", 4 * BLOCK)
    answered(tmp_path, again, reports=reports)
    assert [block[0] for block in again.blocks] == [2 * BLOCK, 3 * BLOCK]
    assert reports[0] == 2 * BLOCK and sum(reports) == 4 * BLOCK


def test_a_block_with_a_damaged_answer_is_asked_again_as_a_whole(tmp_path: Path) -> None:
    answered(tmp_path, Asked("one", 3 * BLOCK))
    (log,) = tmp_path.iterdir()
    lines = log.read_bytes().splitlines(keepends=True)
    lines[BLOCK + 3] = lines[BLOCK + 3].replace(b'"yes"', b'"no"')
    log.write_bytes(b"".join(lines))
    again = Asked("one", 3 * BLOCK)
    answered(tmp_path, again)
    assert again.blocks == [list(range(BLOCK, 2 * BLOCK))]


def test_answers_to_more_questions_than_are_asked_now_are_left_out(tmp_path: Path) -> None:
    answered(tmp_path, Asked("one", 2 * BLOCK))
    fewer = Asked("one", BLOCK)
    assert answered(tmp_path, fewer) == {"one": SAMPLES * BLOCK} and fewer.blocks == []


def test_answers_to_another_version_of_a_task_or_in_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    sets = [Asked("one", BLOCK, settings=settings) for settings in ({"version": 1}, {"version": 2}, {"version": 1})]
    for asked in sets:
        answered(tmp_path, asked)
    assert [len(asked.blocks) for asked in sets] == [1, 1, 0]


def test_what_another_rank_has_logged_is_not_asked_again(tmp_path: Path) -> None:
    other = Asked("one", 2 * BLOCK)
    RecordLog(tmp_path, other.questions.log, 5).append(
        [[record] * SAMPLES for record in other.questions.ask(FakeTextModel(), range(BLOCK))[::SAMPLES]]
    )
    mine = Asked("one", 2 * BLOCK)
    world = World(0, 1, torch.device("cpu"))
    answering = Answering(FakeTextModel(), world, tmp_path, lambda count: None)
    ((_, records),) = answering.answer([mine.questions])
    assert [block[0] for block in mine.blocks] == [BLOCK] and len(records) == SAMPLES * 2 * BLOCK
