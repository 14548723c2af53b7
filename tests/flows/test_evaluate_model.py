"""Evaluating any model by its name."""

import json

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.evaluate_model import evaluate_model, with_options
from flows.lineage import lineage_of
from flows.model_ref import find_model
from flows.pipeline import pipeline
from flows.pipeline_run import NEWEST
from nanochat_core import artifacts
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.recipes import recipe
from nanochat_core.specs import EvaluateSpec, PipelineSpec, with_changes
from tests.flows.conftest import FakeStages


def test_what_the_pipeline_has_measured_is_reused_under_every_name_of_the_model(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    own = {outcome.stage: outcome for outcome in pipeline(short_spec).outcomes}
    newest = (finished.base / NEWEST).read_text()
    for name, stage in (("sft", "evaluate_sft"), (str(own["sft"].folder), "evaluate_sft"), ("base", "evaluate_base")):
        outcome = evaluate_model(name)
        assert (outcome.folder, outcome.is_cached) == (own[stage].folder, True)
    assert finished.ran() == []
    assert (finished.base / NEWEST).read_text() == newest


def test_another_question_runs_the_evaluation_alone_and_leaves_the_newest_run_as_it_is(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    newest = (finished.base / NEWEST).read_text()
    spec = with_options("sft", tasks=["Facts"], examples=7, base=finished.base)
    assert (spec.chat_tasks, spec.chat_examples) == (("Facts",), 7)
    outcome = evaluate_model("sft", spec)
    assert finished.ran() == ["evaluate_sft"]
    request = artifacts.StageFolder(outcome.folder).request
    assert request.params["chat_tasks"] == ["Facts"]
    assert set(request.inputs) == {"model", "tokenizer", "task_data"}
    assert (finished.base / NEWEST).read_text() == newest
    assert with_options("sft", tasks=[], examples=None, base=finished.base).chat_tasks == ("Facts",)


def test_a_base_model_gets_its_text_and_the_task_data_of_that_text(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    other = with_changes(short_spec, {"download.seed": 5, "pretrain.steps": 3})
    pipeline(other)
    finished.ran()
    folder = find_model("base", finished.base).model
    outcome = evaluate_model(str(folder), EvaluateSpec(core_examples=0, bpb_tokens=4096))
    assert finished.ran() == ["evaluate_base"]
    request = artifacts.StageFolder(outcome.folder).request
    pretrain = artifacts.StageFolder(folder)
    task_data = artifacts.StageFolder(outcome.folder).input("task_data")
    assert request.inputs["text"] == pretrain.request.inputs["text"]
    assert artifacts.StageFolder(task_data).request.inputs["text"] == request.inputs["text"]


def test_a_model_that_was_never_evaluated_gets_all_that_its_data_allows(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    for folder in (finished.base / "artifacts" / "evaluate_sft").iterdir():
        (folder / "manifest.json").unlink()
    spec = with_options("sft", tasks=[], examples=5, base=finished.base)
    assert spec.chat_tasks == (
        "Arithmetic",
        "CountLetters",
        "Facts",
        "LongArithmetic",
        "SimpleSpelling",
        "Spelling",
        "SpellingBee",
    )
    assert (spec.max_new_tokens, spec.core_examples) == (256, 0)


def test_what_cannot_be_evaluated_is_refused_before_anything_starts(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    with pytest.raises(SpecError, match=r"(?s)2 problems:.*chat_tasks: GSM8K needs the data set.*unknown task 'Fact'"):
        evaluate_model("sft", EvaluateSpec(chat_tasks=("GSM8K", "Fact"), max_new_tokens=64))
    with pytest.raises(ArtifactError, match="which is no model"):
        evaluate_model(str(find_model("sft", finished.base).tokenizer))
    model = find_model("sft", finished.base).model
    content = json.loads((model / "manifest.json").read_text())
    content["files"][0]["pruned"] = True
    (model / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="removed by `nanochat gc`"):
        evaluate_model("sft", EvaluateSpec(chat_tasks=("Facts",), max_new_tokens=64))
    assert finished.ran() == []


def test_the_command_prints_the_scores(finished: FakeStages) -> None:
    result = CliRunner().invoke(app, ["eval", "sft", "--tasks", "Facts", "--examples", "3"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "size" in result.stdout
    assert finished.ran() == ["evaluate_sft"]
    refused = CliRunner().invoke(app, ["eval", "sfd"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)


def test_a_lineage_goes_back_to_the_text(finished: FakeStages) -> None:
    lineage = lineage_of(find_model("sft", finished.base).model, finished.base)
    assert next(iter(lineage.outcomes)) == lineage.stage == "sft"
    assert set(lineage.outcomes) == {"sft", "tokenizer", "conversations_sft", "pretrain", "download", "task_data"}
    assert lineage.shape == recipe("demo").pretrain.model.model_copy(update={"n_kv_head": 4})
    assert lineage.task_data.source == "local"
