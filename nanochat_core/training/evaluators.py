"""Measuring a model while it trains: the evaluators of a spec, found by their names in `nanochat.evaluators`.

    evaluators of the spec -> Evaluations -> between two steps: answers of each rank -> scores -> metrics "eval/…"

An evaluator sees the weights as they are, behind a `TextModel`, and nothing of the training: no random number is taken
from it, and no time of it is counted as a step's. It can be stopped between two batches of examples; what was not
measured then is measured when the run goes on.
"""

import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nanochat_core.artifacts import StageFolder
from nanochat_core.distributed import World
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.interface import TextModel
from nanochat_core.inference.load import EngineModel
from nanochat_core.inference.tool_use import load_tool
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer

GROUP = "nanochat.evaluators"
TASK_DATA = "task_data"  # the stage's input with what the examples are made from
TOOL = "calculator"
NOTE_SECONDS = 5.0  # between two words on how far it is

Record = dict[str, Any]  # what an evaluator keeps of an answer, as JSON


class Evaluator(Protocol):
    """What the entry of `nanochat.evaluators` makes of (its EvaluatorSpec, the folder of the task data).

    It raises there what is wrong with the spec or the data (NanochatError): that is before the first step.
    """

    @property
    def examples(self) -> int:
        """How many examples all ranks answer together."""
        ...

    def answer(
        self, model: TextModel, share: Callable[[int], list[int]], report: Callable[[int], None]
    ) -> list[Record]:
        """Return the records of this rank: of n examples, it answers those at `share(n)`.

        `report` is to be called with how many more are done, every some seconds; it may raise to end the evaluation.
        """
        ...

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Return the metrics of all ranks' records, which come in the order of the ranks."""
        ...


def load_evaluator(spec: EvaluatorSpec, task_data: Path) -> Evaluator:
    """Return the evaluator registered as `spec.name`; raises SpecError for a name that nobody registered."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if spec.name not in known:
        raise SpecError(f"evaluators: unknown evaluator {spec.name!r}{did_you_mean(spec.name, known)}.")
    made: Evaluator = known[spec.name].load()(spec, task_data)
    return made


class Interrupted(Exception):
    """The evaluation is to end: the run has to stop."""


@dataclass
class Evaluations:
    """The evaluators of one run, and when each is due. Every rank has one, and calls each method as the others do.

    `finished` are those that an earlier attempt of the run has measured already, as (name, step).
    """

    evaluators: Mapping[EvaluatorSpec, Evaluator]
    model: GPT
    tokenizer: Tokenizer
    world: World
    is_from_start: bool  # whether step 0 is worth a measurement: the model was trained before
    finished: set[tuple[str, int]] = field(default_factory=set)

    @classmethod
    def of(
        cls, folder: StageFolder, specs: Sequence[EvaluatorSpec], model: GPT, tokenizer: Tokenizer, world: World
    ) -> "Evaluations":
        """Return the evaluators of a stage, ready; raises NanochatError for what one of them cannot do."""
        if specs and TASK_DATA not in folder.request.inputs:
            raise SpecError(
                f"evaluators: {', '.join(spec.name for spec in specs)} need the input {TASK_DATA!r} in spec.json, the "
                "folder of a finished stage task_data; name one, or leave evaluators empty."
            )
        evaluators = {spec: load_evaluator(spec, folder.input(TASK_DATA)) for spec in specs}
        return cls(evaluators, model, tokenizer, world, is_from_start="model" in folder.request.inputs)

    def due(self, step: int, steps: int) -> list[EvaluatorSpec]:
        """Return what is to be measured at this step of a run of `steps`: every so many steps, and at the last."""
        if step == 0 and not self.is_from_start:
            return []
        return [
            spec
            for spec in self.evaluators
            if (step % spec.every == 0 or step == steps) and (spec.name, step) not in self.finished
        ]

    def resume(self, step: int, line: Mapping[str, Any]) -> None:
        """Take note of what was measured at `step`, by the metrics of that step (rank 0's count)."""
        names = [spec.name for spec in self.evaluators if seconds_key(spec) in line]
        first, *_ = self.world.gather_bytes(json.dumps(names).encode())
        self.finished = {(name, step) for name in json.loads(first)}

    def measure(
        self, spec: EvaluatorSpec, *, stop: Callable[[], bool], note: Callable[[str], None]
    ) -> dict[str, float] | None:
        """Return the metrics of one evaluator, or None where a rank's `stop` has ended it.

        `note` hears how far it is, at its beginning and every some seconds.
        """
        started = time.perf_counter()
        evaluator = self.evaluators[spec]
        progress = Progress(spec.name, evaluator.examples, self.world.size, stop, note)
        own = self._answers(evaluator, progress)
        # One exchange, whatever happened: a rank that was stopped must not leave the others waiting.
        everybodys = [json.loads(data) for data in self.world.gather_bytes(json.dumps(own).encode())]
        if any(records is None for records in everybodys):
            return None
        values = evaluator.score([record for records in everybodys for record in records])
        seconds = round(time.perf_counter() - started, 2)
        return {f"eval/{name}": value for name, value in values.items()} | {seconds_key(spec): seconds}

    def _answers(self, evaluator: Evaluator, progress: "Progress") -> list[Record] | None:
        world = self.world
        with undisturbed(self.model):
            model = EngineModel(Engine(self.model, self.tokenizer, tool=load_tool(TOOL)))
            try:
                progress(0)
                return evaluator.answer(model, lambda count: list(range(world.rank, count, world.size)), progress)
            except Interrupted:
                return None


def seconds_key(spec: EvaluatorSpec) -> str:
    """Return the metric that is there when an evaluator has measured a step."""
    return f"eval/{spec.name}_seconds"


@dataclass
class Progress:
    """Counts the examples that are done, says so every some seconds, and ends the evaluation where it must."""

    name: str
    examples: int
    ranks: int
    stop: Callable[[], bool]
    note: Callable[[str], None]
    done: int = 0
    noted_at: float = -NOTE_SECONDS

    def __call__(self, count: int) -> None:
        if self.stop():
            raise Interrupted
        self.done = min(self.done + count * self.ranks, self.examples)
        if time.monotonic() - self.noted_at >= NOTE_SECONDS:
            self.noted_at = time.monotonic()
            self.note(f"{self.name}: {self.done:,} of {self.examples:,}")


@contextmanager
def undisturbed(model: GPT) -> Iterator[None]:
    """Have a model measured that is being trained: what comes after finds all random states as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            model.train()
            random.setstate(python)
            np.random.set_state(numpy)
            gc.collect()  # training leaves that to itself rarely, and an engine's keys and values are large
