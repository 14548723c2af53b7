"""Stages that a pipeline names itself: what they are made from, what changes them; they are stages like any other."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows import launch
from flows.cli import app, build_spec
from flows.evaluate import evaluations
from flows.finetune import MIDTRAIN, SFT, conversations_for, finetune, finetuning, stage_before
from flows.gc_usage import usage_of
from flows.model_ref import find_model
from flows.pipeline import pipeline
from flows.preferences import DPO
from flows.registry import find_registered
from flows.rl import RL
from flows.serve_command import model_name
from flows.stage import Stage
from nanochat_core.artifacts import read_json, read_manifest
from nanochat_core.errors import ArtifactError, SpecError, StageFailed
from nanochat_core.metrics import read_metrics
from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages
from tests.flows.tiny import CHANGES, ROWS

THREE_LINES = """[
{"name": "alpaca", "after": "pretrain", "conversations": {"mixture": [{"path": "alpaca.json"}], "validation_rows": 8}},
{"name": "dolly", "conversations": {"mixture": [{"path": "dolly.jsonl"}], "validation_rows": 8}}
]"""
ALPACA = [{"instruction": f"Add one to {n}.", "input": "", "output": str(n + 1)} for n in range(40)]
DOLLY = [{"instruction": f"Name {n}.", "context": "", "response": f"It is {n}."} for n in range(40)]

LEFT_OUT = ("midtrain", "rl")
TINY = {
    field: value for field, value in (CHANGES | ROWS).items() if not field.startswith(tuple(f"{n}." for n in LEFT_OUT))
} | {**dict.fromkeys(LEFT_OUT), "sft.evaluators": [], "evaluate.chat_tasks": ["Arithmetic"]}


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with alpaca.json and dolly.jsonl, in which the command is given."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "alpaca.json").write_text(json.dumps(ALPACA))
    (folder / "dolly.jsonl").write_text("\n".join(map(json.dumps, DOLLY)))
    monkeypatch.chdir(folder)
    return folder


def spec_of(**changes: Any) -> PipelineSpec:
    return with_changes(recipe("demo"), {"finetune": json.loads(THREE_LINES)} | changes)


def model_of(stage: Stage, spec: PipelineSpec) -> str:
    return stage.inputs(spec)["model"].name


def nanochat(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_each_stage_is_made_from_the_model_before_it() -> None:
    spec = spec_of()
    alpaca, dolly = finetuning("alpaca"), finetuning("dolly")
    assert (alpaca.name, alpaca.part) == ("finetune_alpaca", "alpaca")
    assert model_of(alpaca, spec) == "pretrain"
    assert model_of(finetuning("midtrain"), spec) == "finetune_alpaca"
    assert model_of(finetuning("midtrain"), recipe("demo")) == "pretrain"
    assert model_of(SFT, spec) == "midtrain" and model_of(SFT, spec_of(midtrain=None)) == "finetune_alpaca"
    assert model_of(dolly, spec) == "sft" and model_of(RL, spec) == "finetune_dolly"
    pairs = spec_of(dpo={"preferences": {"path": "pairs.jsonl"}})
    assert model_of(DPO, pairs) == "finetune_dolly" and model_of(RL, pairs) == "dpo"
    assert dolly.inputs(spec)["conversations"].name == "conversations_dolly"
    assert stage_before(spec, "dolly") is SFT and finetuning("dolly") is dolly
    assert [stage.name for stage in evaluations(spec)] == [
        f"evaluate_{name}" for name in ("base", "alpaca", "mid", "sft", "dolly", "rl")
    ]


def test_a_stage_that_starts_from_a_model_of_ones_own_has_that_as_its_input() -> None:
    starting = json.loads(THREE_LINES)
    starting[1]["start_from"] = "sft/0123456789abcdef"
    assert model_of(finetuning("dolly"), spec_of(finetune=starting)) == "earlier_dolly"


def test_a_stage_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"There is no stage 'doly' in finetune \(did you mean 'dolly'\?\)"):
        finetuning("doly").params(spec_of())
    for stage, spec in ((finetuning("doly"), spec_of()), (RL, spec_of(rl=None)), (MIDTRAIN, spec_of(midtrain=None))):
        with pytest.raises(SpecError, match=f"no stage '?{stage.part}"):
            stage.inputs(spec)


def test_a_file_counts_by_its_content_and_name_and_not_by_its_place(own_files: Path, tmp_path: Path) -> None:
    def params_of(path: str) -> dict[str, Any]:
        own = {"name": "dolly", "conversations": {"mixture": [{"path": path}, {"task": "Facts"}]}}
        return conversations_for("dolly").params(spec_of(finetune=[own])).output

    stage = conversations_for("dolly").params(spec_of())
    assert stage.full["mixture"][0]["path"] == str(own_files / "dolly.jsonl"), "stages run in another folder"
    assert list(stage.full["own_files"]) == [str(own_files / "dolly.jsonl")]
    first = params_of("dolly.jsonl")
    assert str(tmp_path) not in json.dumps(first)
    moved = tmp_path / "elsewhere" / "dolly.jsonl"
    moved.parent.mkdir()
    shutil.copy2("dolly.jsonl", moved)
    assert params_of(str(moved)) == first == params_of(str(own_files / "dolly.jsonl"))
    shutil.copy2("dolly.jsonl", "other.jsonl")
    assert params_of("other.jsonl") != first, "the rows are called by the file"
    with open("dolly.jsonl", "a") as file:
        file.write("\n" + json.dumps(DOLLY[0]))
    assert params_of("dolly.jsonl") != first
    assert "path" not in first["mixture"][1], "a mixture of tasks is what it was before files came"


def test_what_a_stage_is_told_has_neither_its_name_nor_its_place() -> None:
    output = finetuning("dolly").params(spec_of()).output
    assert not {"name", "after", "conversations", "start_from"} & set(output)
    assert output["batching"] == "packed" and output["optimizer"]["lr_scale"] == 0.02


def test_the_command_and_the_form_take_the_same_stages(own_files: Path) -> None:
    by_command = build_spec("demo", data=None, data_path=None, changes=[f"finetune={THREE_LINES}"])
    assert by_command == spec_of()
    as_the_ui_sends_it = by_command.model_dump(mode="json")
    assert pipeline.validate_parameters({"spec": as_the_ui_sends_it})["spec"] == by_command
    planned = nanochat("plan", "demo", "--set", f"finetune={THREE_LINES}")
    assert "base, alpaca, mid, sft, dolly, rl" in planned.stdout
    assert read_json_of(planned_json()) == ["base", "alpaca", "mid", "sft", "dolly", "rl"]


def planned_json() -> Result:
    return nanochat("plan", "demo", "--json", "--set", f"finetune={THREE_LINES}")


def read_json_of(result: Result) -> Any:
    return json.loads(result.stdout)["models"]


@pytest.fixture
def short(own_files: Path, short_spec: PipelineSpec) -> PipelineSpec:
    return with_changes(short_spec, {"finetune": json.loads(THREE_LINES)})


def stages_of(name: str) -> list[str]:
    return [f"conversations_{name}", f"finetune_{name}", f"evaluate_{name}"]


def test_named_stages_run_where_they_belong_and_are_models_like_any(finished: FakeStages, short: PipelineSpec) -> None:
    result = pipeline(short)
    assert finished.ran() == [*stages_of("alpaca"), "sft", "evaluate_sft", *stages_of("dolly")]
    base = finished.base
    dolly = find_model("dolly", base)
    assert find_model(None, base) == dolly, "the last of the chain is the newest chat model"
    assert find_model("alpaca", base).model.parent.name == "finetune_alpaca"
    assert (model_name(dolly), model_name(find_model("base", base))) == ("dolly", "base")
    assert find_registered("models:/nanochat-demo-dolly@newest", base) == dolly.model
    assert f"finetune_dolly/{dolly.model.name}" in usage_of(base, keep_runs=1, keep_days=0).kept
    report = read_json(result.report / "report.json")
    assert list(report["evaluations"]) == ["base", "alpaca", "sft", "dolly"]
    assert {"finetune_alpaca", "finetune_dolly"} <= set(report)
    page = (result.report / "report.md").read_text()
    headings = [line.strip("# ") for line in page.splitlines() if line.endswith("in numbers")]
    assert headings == [f"{title} in numbers" for title in ("Pretraining", "alpaca", "SFT", "dolly")]
    assert (result.report / "plots" / "finetune_dolly_loss.svg").is_file() and "dolly: loss" in page
    pipeline(short)
    assert finished.ran() == []
    with pytest.raises(ArtifactError, match=r"has no model 'rl' \(it has: base, alpaca, sft, dolly\)"):
        find_model("rl", base)
    with pytest.raises(SpecError, match=r"'doly' is no model and no artifact folder \(did you mean 'dolly'\?\)"):
        find_model("doly", base)


@pytest.mark.slow
def test_another_alpaca_redoes_what_follows_it_and_another_dolly_itself_alone(
    finished: FakeStages, short: PipelineSpec, own_files: Path
) -> None:
    pipeline(short)
    finished.ran()
    os.utime(own_files / "dolly.jsonl", ns=(1, 1))
    pipeline(short)
    assert finished.ran() == stages_of("dolly")
    (own_files / "alpaca.json").write_text(json.dumps(ALPACA[1:]))
    pipeline(short)
    assert finished.ran() == [*stages_of("alpaca"), "sft", "evaluate_sft", *stages_of("dolly")[1:]]


@pytest.mark.slow
def test_a_failed_stage_goes_on_by_its_name_and_is_forced_by_it(finished: FakeStages, short: PipelineSpec) -> None:
    finished.fail("finetune_dolly", "crash")
    with pytest.raises(StageFailed, match="finetune_dolly crashed"):
        pipeline(short)
    finished.heal()
    finished.ran()
    asked = ["demo", "--set", "midtrain=null", "--set", "rl=null", "--set", f"finetune={THREE_LINES}"]
    result = nanochat("stage", "dolly", *asked)
    assert result.exit_code == 0, result.output
    assert finished.ran() == ["finetune_dolly"] and "finetune_dolly" in result.stdout
    lines = find_model("dolly", finished.base).model.joinpath("metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 3, 4], "from the checkpoint of step 2"
    assert nanochat("stage", "dolly", *asked, "--force", "dolly").exit_code == 0
    assert finished.ran() == ["conversations_dolly", "finetune_dolly"]
    refused = nanochat("stage", "doly", *asked)
    assert refused.exit_code == 2 and "Unknown stage 'doly' (did you mean 'dolly'?)" in refused.stderr


def asked_really(**fields: Any) -> list[str]:
    """Return the words of a command for a tiny pipeline with both stages, each with `fields` besides."""
    stages = [stage | fields for stage in json.loads(THREE_LINES)]
    changes = TINY | {"finetune": stages}
    return ["demo", *(f"--set={field}={json.dumps(value)}" for field, value in changes.items())]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("prefect_server")
def test_alpaca_after_pretraining_and_dolly_after_sft_are_really_trained(
    base: Path, own_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_really(steps=2, batch_rows=2, runtime={"checkpoint_every": 1})
    whole = (own_files / "dolly.jsonl").read_text()
    (own_files / "dolly.jsonl").write_text(whole + '\n{"instruction": "Name')
    failed = nanochat("run", *asked)
    assert failed.exit_code == 2 and "dolly.jsonl:41: not JSON" in failed.stderr, failed.output
    assert "Traceback" not in failed.output

    (own_files / "dolly.jsonl").write_text(whole)
    alone = nanochat("stage", "dolly", *asked)
    assert alone.exit_code == 0, alone.output
    dolly, alpaca = find_model("dolly", base).model, find_model("alpaca", base).model
    made = read_manifest(dolly)
    assert made is not None and made.metrics["val_loss_last"] > 0 and made.metrics["steps"] == 2
    assert read_json(dolly / "spec.json")["inputs"]["model"].startswith("sft/")
    assert read_json(alpaca / "spec.json")["inputs"]["model"].startswith("pretrain/")

    (dolly / "checkpoints" / "step_00000002" / "model.safetensors").unlink()
    resumed = nanochat("run", *asked)
    assert resumed.exit_code == 0, resumed.output
    again = read_manifest(dolly)
    assert again is not None and again.digest == made.digest, "from step 1 to the same weights"
    assert {line["attempt"] for line in read_metrics(dolly / "metrics.jsonl")} == {1, 2}
    report = read_json(base / "reports" / "latest" / "report.json")
    assert report["scores"]["models"] == ["base", "alpaca", "sft", "dolly"]
    assert report["stages"]["conversations_dolly"]["metrics"]["train_rows"] > 20
    assert (base / "reports" / "latest" / "plots" / "finetune_alpaca_loss.svg").is_file()

    monkeypatch.setattr(launch.subprocess, "Popen", None)  # nothing may be started any more
    second = nanochat("run", *asked)
    assert second.exit_code == 0, second.output


def test_the_flow_refuses_a_stage_that_is_not_there() -> None:
    with pytest.raises(SpecError, match=r"There is no stage 'doly' in finetune \(did you mean 'dolly'\?\)"):
        finetune.fn(spec_of(), "doly")
