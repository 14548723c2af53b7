"""The commands for models to and from elsewhere, and what the pipeline does with an imported model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows import launch
from flows.cli import app
from flows.earlier_model import with_earlier
from flows.evaluate_model import evaluate_model, spec_for, what_is_asked
from flows.evaluation.request import Asked
from flows.evaluation.task_data import in_folder
from flows.finetune import sft
from flows.gc import Rules, survey
from flows.lineage import lineage_of
from flows.model_ref import find_model
from flows.pipeline_run import NEWEST
from nanochat_core import artifacts
from nanochat_core.conversion.importing import adopt
from nanochat_core.conversion.transformers_folder import Imported
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.recipes import recipe, resolve
from nanochat_core.specs import EvaluateSpec, LaunchSpec, ModelSpec, PipelineSpec, with_changes
from nanochat_core.tokenizer.bpe import Tokenizer
from tests.flows.conftest import FakeStages
from tests.nanochat_core.stages.stage_folders import documents

VOCAB_SIZE = 300
Calls = list[tuple[str, list[str]]]


def nanochat(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


def imported(base: Path, stage: str, seed: int = 0) -> Path:
    """Import a model that nobody has trained; return its folder."""
    model = GPT(ModelSpec(depth=1, n_embd=32, n_head=2, n_kv_head=2, sequence_len=64), VOCAB_SIZE)
    init_weights(model, seed=seed)
    tokenizer = Tokenizer.train(documents(300, 1), VOCAB_SIZE)
    found = Imported(model.spec, VOCAB_SIZE, dict(model.state_dict()), tokenizer, None, "fp32")
    return adopt(found, base, stage=stage).model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The modules that commands would go over to, with their arguments."""
    found: Calls = []

    def note(module: str, arguments: Sequence[str], environment: Any = None) -> int:
        found.append((module, list(arguments)))
        return 0

    monkeypatch.setattr(launch, "become", note)
    monkeypatch.setattr(launch, "call", note)
    return found


def test_export_goes_over_to_the_module_with_the_model_s_folders(base: Path, calls: Calls, tmp_path: Path) -> None:
    folder = imported(base, "sft")
    result = nanochat("export", str(folder), str(tmp_path / "out"), "--dtype", "bf16", "--no-check", "--force")
    assert result.exit_code == 0, result.output
    ((module, arguments),) = calls
    assert module == "nanochat_core.conversion.exporting"
    folders = find_model(str(folder), base)
    assert arguments[:3] == [str(folders.model), str(folders.tokenizer), str(tmp_path / "out")]
    assert arguments[3:7] == ["--dtype", "bf16", "--no-check", "--force"]


def test_export_with_mlflow_logs_after_it_has_written(
    base: Path, calls: Calls, tmp_path: Path, mlflow_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    folder = imported(base, "sft")
    assert nanochat("export", str(folder), str(tmp_path / "talker"), "--mlflow").exit_code == 0
    assert [module for module, _ in calls] == ["nanochat_core.conversion.exporting", "deployments.mlflow_model"]
    assert calls[1][1][0] == str(folder) and calls[1][1][2:] == ["--name", "talker", "--experiment", "nanochat"]
    monkeypatch.setattr(launch, "call", lambda *_: 2)
    assert nanochat("export", str(folder), str(tmp_path / "talker"), "--mlflow").exit_code == 2
    assert len(calls) == 2


def test_import_goes_over_to_the_module_with_this_base_folder(base: Path, calls: Calls, tmp_path: Path) -> None:
    assert nanochat("import", str(tmp_path)).exit_code == 0
    options = ["--tokenizer", "ranks", "--as", "sft", "--newest"]
    assert nanochat("import", str(tmp_path), *options).exit_code == 0
    module = "nanochat_core.conversion.importing"
    given = ["--tokenizer", str(Path("ranks").absolute()), "--as", "sft", "--newest-record", str(base / NEWEST)]
    plain = [str(tmp_path), "--base-dir", str(base)]
    assert calls == [(module, plain), (module, plain + given)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["export", "sft", "out"], "`nanochat run demo` trains one"),
        (["export", "sft", "out", "--dtype", "fp8"], "Unknown --dtype 'fp8'"),
        (["export", "nothing", "out"], "is no model and no artifact folder"),
    ],
)
def test_a_user_s_mistake_ends_in_one_line(arguments: list[str], problem: str, base: Path, calls: Calls) -> None:
    result = nanochat(*arguments)
    assert (result.exit_code, result.stderr.count("\n"), calls) == (2, 1, [])
    assert problem in result.stderr


def test_an_imported_model_is_evaluated_on_what_is_here(finished: FakeStages) -> None:
    chat, text = imported(finished.base, "sft"), imported(finished.base, "base")
    lineage = lineage_of(chat, finished.base)
    assert (lineage.stage, lineage.shape.n_embd, lineage.task_data.source) == ("sft", 32, "local")
    assert evaluate_model(str(chat), what_is_asked(lineage, ["Facts"], None, finished.base).spec)
    of_text = lineage_of(text, finished.base)
    asked = Asked(("bpb",), EvaluateSpec(bpb_tokens=4096))
    base = spec_for(of_text, asked, in_folder(of_text.outcomes["task_data"].folder), LaunchSpec())
    assert base.pretrain.model.n_embd == 32 and "download" in lineage_of(text, finished.base).outcomes
    assert finished.ran() == ["evaluate_sft"]


def test_without_data_it_is_said_what_is_missing(base: Path) -> None:
    with pytest.raises(ArtifactError, match="no task data for an imported model: `nanochat stage task_data RECIPE`"):
        lineage_of(imported(base, "sft"), base)


def test_fine_tuning_starts_from_an_imported_model_with_its_tokenizer(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    folder = imported(finished.base, "base")
    place = f"pretrain/{folder.name}"
    spec = with_changes(short_spec, {"sft.start_from": place, "tokenizer.vocab_size": VOCAB_SIZE})
    (outcome,) = [outcome for outcome in sft(spec) if outcome.stage == "sft"]
    assert finished.ran() == ["conversations_sft", "sft"]
    request = artifacts.StageFolder(outcome.folder).request
    assert request.inputs["model"] == place and "start_from" not in request.params
    conversations = artifacts.StageFolder(finished.base / "artifacts" / request.inputs["conversations"]).request
    assert request.inputs["tokenizer"] == conversations.inputs["tokenizer"]
    assert request.inputs["tokenizer"] == artifacts.StageFolder(folder).request.inputs["tokenizer"]
    lineage = lineage_of(outcome.folder, finished.base)
    assert lineage.shape.n_embd == 32


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sft.start_from": "{base}"}, "sft.start_from: {folder} has a vocabulary of 300 tokens, tokenizer.vocab_size"),
        ({"sft.start_from": "tokenizer"}, "sft.start_from: .* is no stage's folder"),
        ({"rl.start_from": "download/{download}"}, "rl.start_from: .* holds the output of download; expected"),
        ({"sft.start_from": "{base}", "pretrain.start_from": "{own}"}, "has another tokenizer than"),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_anything_runs(
    changes: dict[str, str], problem: str, finished: FakeStages, short_spec: PipelineSpec
) -> None:
    root = finished.base / "artifacts"
    folder = imported(finished.base, "base")
    own = artifacts.read_json(finished.base / NEWEST)["folders"]
    names = {"base": f"pretrain/{folder.name}", "own": own["pretrain"], "download": own["download"].split("/")[1]}
    spec = short_spec if "rl.start_from" not in changes else with_rl(short_spec)
    spec = with_changes(spec, {field: value.format(**names) for field, value in changes.items()})
    with pytest.raises(SpecError, match=problem.format(folder=root / "pretrain" / folder.name)):
        with_earlier(resolve(spec), finished.base)


def with_rl(spec: PipelineSpec) -> PipelineSpec:
    return spec.model_copy(update={"rl": recipe("demo").rl})


def test_gc_never_takes_an_imported_model(base: Path) -> None:
    folder = imported(base, "sft")
    for path in (folder, folder.parents[1] / "tokenizer"):
        for manifest in path.glob("**/manifest.json"):
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created": 1.0}))
    found = {artifact.stage: artifact for artifact in survey(base, Rules())}
    assert (found["sft"].action, found["sft"].why, found["tokenizer"].action) == ("keep", "imported", "keep")
