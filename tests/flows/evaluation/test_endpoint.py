"""Evaluating a model behind a URL: asked anew each time, gone on with where it was stopped, held against one here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.evaluate_model import evaluate_model
from flows.model_ref import find_model
from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import SpecError, StageFailed
from nanochat_core.specs import EvaluateSpec
from tests.flows.conftest import FakeStages
from tests.foreign_server import ForeignServer, running_stranger

FACTS = EvaluateSpec(chat_examples=100)


@pytest.fixture
def stranger() -> Iterator[ForeignServer]:
    with running_stranger(scores_prompts=False) as stranger:
        yield stranger


def folders(base: Path) -> list[Path]:
    return sorted((base / "artifacts" / "evaluate_endpoint").iterdir(), key=lambda path: path.stat().st_ctime_ns)


@pytest.mark.slow
def test_it_is_asked_anew_each_time_and_goes_on_where_it_was_stopped(
    finished: FakeStages, stranger: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_API_KEY", "a-key-that-nobody-guesses")
    first = evaluate_model(stranger.url, FACTS, ["Facts"]).outcome
    request = StageFolder(first.folder).request
    assert request.params["endpoint"] == {"url": f"{stranger.url}/v1", "model": "stranger"}
    assert (request.params["measures"], set(request.inputs)) == (["chat"], {"task_data"})
    log = (first.folder / "log.txt").read_text()
    assert "secrets here: ['NANOCHAT_API_KEY']" in log and "a-key-that-nobody-guesses" not in log
    assert "torch.distributed.run" not in log

    finished.fail("evaluate_endpoint", "crash")
    with pytest.raises(StageFailed):
        evaluate_model(stranger.url, FACTS, ["Facts"])
    finished.heal()
    resumed = evaluate_model(f"{stranger.url}/v1/#stranger", FACTS, ["Facts"]).outcome
    assert len(folders(finished.base)) == 2
    assert resumed.folder == folders(finished.base)[-1] != first.folder
    lines = (resumed.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines][-2:] == [3, 4]
    assert evaluate_model(stranger.url).outcome.folder not in (first.folder, resumed.folder)  # as asked last
    manifest = artifacts.read_manifest(resumed.folder)
    assert manifest is not None and "a-key-that-nobody-guesses" not in manifest.model_dump_json()


@pytest.mark.slow
def test_a_model_here_is_held_against_it_on_its_own_task_data(
    finished: FakeStages, stranger: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = find_model("sft", finished.base).model
    monkeypatch.setenv("FAKE_ACCURACY", json.dumps({own.name: {"Facts": 0.5}, "stranger": {"Facts": 0.75}}))
    options = ["--tasks=Facts", "--examples=200", f"--against={stranger.url}"]
    result = CliRunner().invoke(app, ["eval", "sft", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert finished.ran() == ["evaluate_sft", "evaluate_endpoint"]
    row = next(line for line in reversed(result.output.splitlines()) if "Facts" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]][:5] == ["Facts", "200", "50.0%", "75.0%", "-25.0"]


@pytest.mark.slow
def test_what_it_cannot_be_asked_is_said_before_anything_starts(finished: FakeStages, stranger: ForeignServer) -> None:
    with pytest.raises(SpecError, match="CORE cannot be measured there"):
        evaluate_model(stranger.url, FACTS, ["CORE"])
    with pytest.raises(SpecError, match="bpb needs the model itself"):
        evaluate_model("sft", FACTS, ["bpb"], against=stranger.url)
    with pytest.raises(SpecError, match="was never evaluated here: name what it is asked"):
        evaluate_model(stranger.url)
    with pytest.raises(SpecError, match=r"has no model 'strange' \(did you mean 'stranger'"):
        evaluate_model(f"{stranger.url}#strange", FACTS, ["Facts"])
    result = CliRunner().invoke(app, ["eval", "http://127.0.0.1:9", "--tasks=Facts"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "does not answer" in result.stderr
    assert finished.ran() == []
