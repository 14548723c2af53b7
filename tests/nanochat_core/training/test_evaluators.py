"""Measuring between two steps: it changes nothing, is stopped and taken up again, and is counted as no step's time."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.distributed import World
from nanochat_core.errors import Preempted, SpecError
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.inference.interface import GenerateRequest, TextModel
from nanochat_core.metrics import read_metrics
from nanochat_core.specs import ModelSpec
from nanochat_core.training import evaluators
from nanochat_core.training.evaluators import Evaluations, load_evaluator
from nanochat_core.training.loop import training_steps
from nanochat_core.training.run import TrainingRun, train
from tests.fakes import byte_tokenizer
from tests.nanochat_core.training import test_run
from tests.nanochat_core.training.test_run import STEPS, VOCAB_SIZE, WORLD, weights

SPEC = EvaluatorSpec(name="guesses", every=5, examples=6)


@dataclass
class Guesses:
    """An evaluator that asks the model, draws random numbers, and calls `during` after each example."""

    examples: int = 6
    during: Callable[[], object] = lambda: None

    def answer(
        self, model: TextModel, share: Callable[[int], list[int]], report: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        answers = []
        for index in share(self.examples):
            torch.rand(3), random.random(), np.random.rand()
            (said,) = model.generate([GenerateRequest(text=f"{index}", max_new_tokens=2)])
            answers.append({"index": index, "length": len(said[0].ids)})
            self.during()
            report(1)
        return answers

    def score(self, records: Sequence[dict[str, Any]]) -> dict[str, float]:
        return {"guessed": float(sum(record["index"] + 1 for record in records))}


def make_run(path: Path, guesses: Guesses | None = None, *, is_from_start: bool = False) -> TrainingRun:
    """Return the run of 12 steps of test_run.py, measured by `guesses` every five, with the true generator of steps."""
    tokenizer = byte_tokenizer()
    model = ModelSpec(depth=1, n_embd=16, n_head=1, n_kv_head=1, sequence_len=16)
    run = replace(test_run.make_run(path, model=model), steps=training_steps)
    measured = {SPEC: guesses} if guesses else {}
    return replace(run, evaluations=Evaluations(measured, run.state.model, tokenizer, WORLD, is_from_start))


@pytest.fixture(autouse=True)
def byte_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VOCAB_SIZE < 265
    monkeypatch.setattr(test_run, "VOCAB_SIZE", byte_tokenizer().vocab_size)


def random_states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def values(path: Path, name: str) -> dict[int, float]:
    return {line["step"]: line[name] for line in read_metrics(path / "metrics.jsonl") if name in line}


def test_a_measured_run_ends_with_the_same_bytes_as_one_that_is_not(tmp_path: Path) -> None:
    found = []
    for name, guesses in (("plain", None), ("measured", Guesses())):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        train(make_run(tmp_path / name, guesses))
        files = sorted((tmp_path / name / "checkpoints" / f"step_{STEPS:08d}").iterdir())
        found.append({file.name: file.read_bytes() for file in files})
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_measuring_takes_no_random_number_from_training(tmp_path: Path) -> None:
    """Looked at right before and after: threads that other tests have left may draw numbers, too."""
    model = make_run(tmp_path, None).state.model
    before = random_states()
    with evaluators.undisturbed(model):
        torch.rand(3), random.random(), np.random.rand()
    assert random_states() == before


def test_it_is_measured_every_so_many_steps_and_at_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path, Guesses())
    train(run)
    assert values(tmp_path, "eval/guessed") == {5: 21.0, 10: 21.0, 12: 21.0}
    assert values(tmp_path, "eval/guesses_seconds").keys() == {5, 10, 12}
    assert run.state.model.training


@pytest.mark.slow
def test_a_model_that_was_trained_before_is_measured_at_its_start_too(tmp_path: Path) -> None:
    train(make_run(tmp_path, Guesses(), is_from_start=True))
    assert list(values(tmp_path, "eval/guessed")) == [0, 5, 10, 12]


def test_time_spent_measuring_is_no_step_s_and_lines_go_on_coming_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def pass_time(seconds: float = 1.0) -> float:
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr(time, "perf_counter", pass_time)
    monkeypatch.setattr(evaluators, "NOTE_SECONDS", 0.0)
    lines = train(make_run(tmp_path, Guesses(during=lambda: pass_time(1000.0))))
    assert min(values(tmp_path, "eval/guesses_seconds").values()) > 6000
    tokens_per_step = 16
    assert all(line["train/tokens_per_second"] > tokens_per_step / 1000 for line in lines if line["step"])
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["evaluating"] for line in written if line["step"] == 5 and "evaluating" in line] == [
        f"guesses: {done} of 6" for done in range(7)
    ]


@pytest.mark.slow
def test_a_run_that_must_stop_while_it_measures_saves_there_and_measures_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_run(tmp_path / "whole", Guesses())
    train(whole)
    folder, calls = tmp_path / "stopped", 0

    def stop_in_the_second() -> None:
        nonlocal calls
        calls += 1
        if calls == 8:  # of six examples each
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="Stopped at step 10 of 12"):
        train(make_run(folder, Guesses(during=stop_in_the_second)))
    assert calls == 8, "the evaluation went on"
    assert list(values(folder, "eval/guessed")) == [5]
    again = make_run(folder, Guesses())
    train(again)
    assert values(folder, "eval/guessed") == values(tmp_path / "whole", "eval/guessed")
    assert values(folder, "train/loss") == values(tmp_path / "whole", "train/loss")
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(whole).items())


def test_what_was_measured_is_not_measured_again_when_a_run_goes_on(tmp_path: Path) -> None:
    train(make_run(tmp_path, Guesses()))
    again = Guesses(during=lambda: pytest.fail("measured twice"))
    lines = train(make_run(tmp_path, again))
    assert lines[-1]["eval/guessed"] == 21.0 and "train/loss" in lines[-1]


def test_the_last_measurement_finds_the_last_checkpoint_and_its_line_stays_whole(tmp_path: Path) -> None:
    found: list[bool] = []

    def measure_last() -> dict[str, float]:
        found.append((tmp_path / "checkpoints" / f"step_{STEPS:08d}" / "meta.json").exists())
        return {"rl/held_out_reward": 0.5}

    for attempt in (1, 2):  # the second as if the first had been killed before its result was written
        last = train(replace(make_run(tmp_path), measure_last=measure_last))[-1]
        assert last["rl/held_out_reward"] == 0.5 and "train/loss" in last
        assert last["attempt"] == attempt
    assert found == [True, True]


@dataclass(frozen=True)
class OneOfTwo(World):
    """A rank whose peer says `other`; what it says itself is kept in `said`."""

    other: bytes = b"[]"
    said: list[bytes] = field(default_factory=list, compare=False)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        self.said.append(data)
        return [data, self.other]


@pytest.mark.slow
def test_ranks_share_the_examples_and_all_leave_it_where_one_was_stopped(tmp_path: Path) -> None:
    run = make_run(tmp_path, Guesses())
    assert run.evaluations

    def measure(world: OneOfTwo) -> dict[str, float] | None:
        evaluations = replace(run.evaluations, world=world)
        return evaluations.measure(SPEC, stop=lambda: False, note=lambda text: None)

    second = OneOfTwo(1, 2, WORLD.device)
    assert measure(second) == {"eval/guessed": 12.0, "eval/guesses_seconds": pytest.approx(0, abs=30)}
    (said,) = second.said
    assert [record["index"] for record in json.loads(said)] == [1, 3, 5]
    found = measure(OneOfTwo(0, 2, WORLD.device, other=said))
    assert found and found["eval/guessed"] == 21.0
    stopped = OneOfTwo(0, 2, WORLD.device, other=b"null")
    assert measure(stopped) is None and len(stopped.said) == 1


def test_an_evaluator_that_nobody_registered_or_that_has_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"unknown evaluator 'chatcor' \(did you mean 'chatcore'\?\)"):
        load_evaluator(EvaluatorSpec(name="chatcor"), tmp_path)
    request = StageRequest(stage="sft", version=1, fingerprint="x", params={}, inputs={})
    (tmp_path / "spec.json").write_text(request.model_dump_json())
    with pytest.raises(SpecError, match="core need the input 'task_data'"):
        Evaluations.of(StageFolder(tmp_path), [EvaluatorSpec(name="core")], None, None, WORLD)  # type: ignore[arg-type]
