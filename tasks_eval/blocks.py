"""All questions of an evaluation in blocks: shared by the ranks, kept as they are answered, merged in the end.

What is in a block depends on nothing but the tasks, and a block is answered as a whole. So the answers are the same for
any number of ranks, and for an evaluation that was killed and went on; log-likelihoods too, where each rank has as many
threads (on a CPU, another number of them sums in another order: about 1e-6 nats).
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import canonical_json
from nanochat_core.distributed import World
from nanochat_core.inference.interface import TextModel
from tasks_eval.records import Record, RecordLog, read_logs, record_of
from tasks_eval.scores import by_question, summarize

BLOCK = 64  # questions

Report = Callable[[int], None]


@dataclass(frozen=True)
class QuestionSet:
    """The first `count` questions of a task. `ask` returns a model's answers to those at some indices.

    baseline: the accuracy of guessing. about: what describes the questions and how they are asked (version, seed, tool,
    temperature, …); scores carry it, and answers that were kept count only where it was the same. can_vote: whether
    answers can be compared with each other.
    """

    name: str
    count: int
    baseline: float
    ask: Callable[[TextModel, Sequence[int]], list[Record]]
    about: Mapping[str, Any] = field(default_factory=dict)
    can_vote: bool = True

    def summarize(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return what the answers to all of them say."""
        return {**self.about, **summarize(records, baseline=self.baseline, can_vote=self.can_vote)}

    @property
    def log(self) -> str:
        """The name of the logs with its answers."""
        return f"{self.name}-{zlib.crc32(canonical_json(self.about).encode()):08x}"

    def blocks(self) -> Iterator[range]:
        for first in range(0, self.count, BLOCK):
            yield range(first, min(first + BLOCK, self.count))


@dataclass(frozen=True)
class Answering:
    """One evaluation's way through its questions: who answers, and where the answers are kept until all are there."""

    model: TextModel
    world: World
    logs: Path
    report: Report  # hears how many more questions all ranks together have answered, about

    def answer(self, sets: Sequence[QuestionSet]) -> Iterator[tuple[QuestionSet, list[Record]]]:
        """Answer what is not answered yet; yield each task with all its records in order, the same on every rank."""
        world = self.world
        kept = {questions.name: self._kept(questions.log) for questions in sets}
        finished = {name: self._union(list(records)) for name, records in kept.items()}
        todo = [
            (questions, block)
            for questions in sets
            for block in questions.blocks()
            if not finished[questions.name].issuperset(block)
        ]
        self.report(sum(questions.count for questions in sets) - sum(len(block) for _, block in todo))
        for questions, block in todo[world.rank :: world.size]:
            records = questions.ask(self.model, block)
            answers = by_question(records)
            RecordLog(self.logs, questions.log, world.rank).append(answers)
            kept[questions.name] |= {own[0].index: own for own in answers}
            self.report(len(block) * world.size)
        for questions in sets:
            yield questions, self._merged(questions, kept[questions.name])

    def _kept(self, log: str) -> dict[int, list[Record]]:
        return read_logs(self.logs, log, rank=self.world.rank, size=self.world.size)

    def _union(self, numbers: Sequence[int]) -> set[int]:
        return set(chain.from_iterable(map(json.loads, self.world.gather_bytes(json.dumps(numbers).encode()))))

    def _merged(self, questions: QuestionSet, own: dict[int, list[Record]]) -> list[Record]:
        """Return all ranks' records of a task; of a question that two have answered, one's."""
        rows = {index: [asdict(record) for record in records] for index, records in own.items()}
        merged: dict[int, list[Record]] = {}
        for data in self.world.gather_bytes(json.dumps(rows).encode()):
            merged |= {int(index): [record_of(row) for row in found] for index, found in json.loads(data).items()}
        return [record for index in sorted(merged) if index < questions.count for record in merged[index]]
