"""The promotion flow: a worse challenger is kept out, a better one is let in, and the registry says why."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from typer.testing import CliRunner

from flows.cli import app
from flows.evaluate_model import what_is_asked
from flows.lineage import lineage_of
from flows.model_ref import find_model
from flows.promote import promote
from flows.promotion.decision import Thresholds
from flows.promotion.registry import champion_folder
from flows.registry import find_registered
from flows.tracking_store import Store
from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import NanochatError, SpecError
from tests.flows.conftest import FakeStages

TASKS = ("Facts", "Spelling")


def another_model(folder: Path, letter: str) -> Path:
    """Return a finished model beside `folder`, made from the same inputs, with other bytes."""
    other = folder.with_name(letter * 16)
    other.mkdir()
    request = json.loads((folder / "spec.json").read_text()) | {"fingerprint": letter * 64}
    (other / "spec.json").write_text(json.dumps(request))
    (other / "output.bin").write_bytes(letter.encode())
    StageFolder(other).write_result({"val_loss_last": 2.0}, ["output.bin"])
    artifacts.finish(StageFolder(other))
    return other


@pytest.fixture
def champion(finished: FakeStages) -> Path:
    return find_model("sft", finished.base).model


@pytest.mark.slow
def test_a_worse_challenger_is_kept_out_and_a_better_one_takes_the_place(
    champion: Path, finished: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse, better = (another_model(champion, letter) for letter in "ab")
    accuracy = {champion: (0.5, 0.5), worse: (0.6, 0.4), better: (0.49, 0.8)}
    shares = {model.name: dict(zip(TASKS, pair, strict=True)) for model, pair in accuracy.items()}
    monkeypatch.setenv("FAKE_ACCURACY", json.dumps(shares))
    lineage = lineage_of(better, finished.base)
    asked = what_is_asked(lineage, TASKS, None, finished.base).changed(chat_examples=400).spec
    place = "models:/nanochat-contest@champion"

    first = promote("sft", "nanochat-contest", evaluate=asked)
    assert (first.is_promoted, first.reason, first.rows) == (True, "nobody had it before", ())
    assert finished.ran() == []

    options = ["--name=nanochat-contest", f"--tasks={','.join(TASKS)}", "--examples=400"]
    refused = CliRunner().invoke(app, ["promote", str(worse), *options], env={"COLUMNS": "200"})
    assert (refused.exit_code, "Kept out: version 2 for" in refused.output) == (1, True), refused.output
    assert finished.ran() == ["evaluate_sft", "evaluate_sft"]
    assert find_registered(place, finished.base) == champion
    run, table = run_and_table(f"promote sft/{worse.name}")
    assert (run.state_name, "worse: Spelling" in str(run.state and run.state.message)) == ("Kept out", True)
    assert [(row["task"], row["difference"], row["verdict"]) for row in table] == [
        ("Facts", "+10.0", "better"),
        ("Spelling", "-10.0", "worse"),
        ("overall", "+0.0", "not worse"),
    ]

    promoted = promote(str(better), "nanochat-contest", evaluate=asked)
    assert [row.verdict for row in promoted.rows] == ["not worse", "better", "better"]
    assert finished.ran() == ["evaluate_sft"]  # the champion's answers are reused
    assert find_registered(place, finished.base) == better
    versions = Store(finished.base).client.search_model_versions("name = 'nanochat-contest'")
    notes = {version.tags["folder"]: version for version in versions}
    assert notes[str(worse)].tags["promotion"] == "kept out"
    assert "| Spelling | 400 | 50.0% | 40.0% | -10.0 |" in notes[str(worse)].description
    assert notes[str(better)].tags["promotion_against"] == "version 1"


def run_and_table(name: str) -> tuple[FlowRun, list[dict[str, str]]]:
    """Return the flow run of this name, and the table that it left in Prefect's UI."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
        tables = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["promotion"])))
    return run, next(json.loads(str(found.data)) for found in tables if found.flow_run_id == run.id)


def test_what_cannot_be_a_contest_is_refused_before_anything_is_measured(champion: Path, finished: FakeStages) -> None:
    with pytest.raises(SpecError, match="moved by registration itself"):
        promote("sft", alias="best")
    with pytest.raises(SpecError, match="cannot be an alias"):
        promote("sft", alias="v1")
    assert finished.ran() == []


def test_nobody_is_the_champion_of_a_base_folder_in_which_nothing_was_promoted(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert champion_folder(base) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(NanochatError, match=r"models:/nanochat-chat@champion: MLflow at .* does not answer"):
        champion_folder(base)


def test_the_thresholds_of_the_form_are_checked() -> None:
    with pytest.raises(ValueError, match="confidence"):
        Thresholds(confidence=95)
