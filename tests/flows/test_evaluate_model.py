"""Evaluating any model by its name: what is asked, from which data, and two models on the same questions."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.evaluate_model import evaluate_model, find_target, tasks_for, what_is_asked
from flows.evaluation.request import Asked
from flows.evaluation.task_data import AskedData, data_for
from flows.lineage import lineage_of
from flows.model_ref import find_model
from flows.pipeline import pipeline
from flows.pipeline_run import NEWEST
from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.recipes import recipe
from nanochat_core.specs import EvaluateSpec, PipelineSpec, TaskDataSpec, with_changes
from tests.flows.conftest import FakeStages

OWN_TASKS = (
    *("Arithmetic", "CountLetters", "Facts", "Identity", "LongArithmetic"),
    *("SimpleSpelling", "Spelling", "SpellingBee"),
)


def asked_of(model: str, tasks: list[str], base: Path) -> Asked:
    return what_is_asked(find_target(model, base, needs_data=not tasks), tasks, None, base)


def test_what_the_pipeline_has_measured_is_reused_under_every_name_of_the_model(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    own = {outcome.stage: outcome for outcome in pipeline(short_spec).outcomes}
    newest = (finished.base / NEWEST).read_text()
    for name, stage in (("sft", "evaluate_sft"), (str(own["sft"].folder), "evaluate_sft"), ("base", "evaluate_base")):
        outcome = evaluate_model(name).outcome
        assert (outcome.folder, outcome.is_cached) == (own[stage].folder, True)
    assert finished.ran() == []
    assert (finished.base / NEWEST).read_text() == newest


def test_another_question_runs_the_evaluation_alone_and_leaves_the_newest_run_as_it_is(finished: FakeStages) -> None:
    newest = (finished.base / NEWEST).read_text()
    asked = asked_of("sft", ["Facts"], finished.base).changed(chat_examples=7)
    outcome = evaluate_model("sft", asked.spec).outcome
    assert finished.ran() == ["evaluate_sft"]
    request = StageFolder(outcome.folder).request
    assert (request.params["chat_tasks"], request.params["chat_examples"]) == (["Facts"], 7)
    assert "core_tasks" not in request.params
    assert set(request.inputs) == {"model", "tokenizer", "task_data"}
    assert (finished.base / NEWEST).read_text() == newest
    assert asked_of("sft", [], finished.base).spec.chat_tasks == ("Facts",)


def test_core_chat_tasks_and_bpb_are_measured_on_any_model_with_data_that_is_fetched(finished: FakeStages) -> None:
    outcome = evaluate_model("sft", tasks=["GSM8K", "copa", "bpb"]).outcome
    assert finished.ran() == ["task_data", "evaluate_sft"]
    opened = StageFolder(outcome.folder)
    params = opened.request.params
    assert (params["measures"], params["core_tasks"], params["core_examples"], params["chat_tasks"]) == (
        ["core", "bpb", "chat"],
        ["copa"],
        500,
        ["GSM8K"],
    )
    assert set(opened.request.inputs) == {"model", "tokenizer", "task_data", "text"}
    fetched = StageFolder(opened.input("task_data")).request
    assert (fetched.params["source"], fetched.params["datasets"]) == ("hub", ["gsm8k", "core"])
    assert evaluate_model("base", tasks=["GSM8K"]).outcome.stage == "evaluate_base"
    assert finished.ran() == ["evaluate_base"]  # the data is here by now
    assert asked_of("sft", [], finished.base).tasks == ["copa", "GSM8K", "bpb"]  # as evaluated last


def test_what_was_measured_is_measured_again_where_that_is_asked_for(finished: FakeStages) -> None:
    spec = asked_of("sft", [], finished.base).spec
    for again, ran in ((False, []), (True, ["evaluate_sft"]), (False, [])):
        evaluate_model("sft", spec, again=again)
        assert finished.ran() == ran


def test_names_that_mean_nothing_are_listed_with_what_was_meant(finished: FakeStages) -> None:
    asked = asked_of("sft", ["CORE", "samples"], finished.base)
    assert (asked.measures, asked.spec.core_tasks, asked.datasets) == (("core", "samples"), None, {"core"})
    with pytest.raises(SpecError, match=r"(?s)3 problems.*'Fact' .*'Facts'.*SmolTalk cannot be graded.*'hellaswg'"):
        asked_of("sft", ["Fact", "SmolTalk", "hellaswg"], finished.base)


def test_a_base_model_gets_its_text_and_the_task_data_of_that_text(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    other = with_changes(short_spec, {"download.seed": 5, "pretrain.steps": 3})
    pipeline(other)
    finished.ran()
    folder = find_model("base", finished.base).model
    outcome = evaluate_model(str(folder), EvaluateSpec(core_examples=0, bpb_tokens=4096)).outcome
    assert finished.ran() == ["evaluate_base"]
    request = StageFolder(outcome.folder).request
    pretrain = StageFolder(folder)
    task_data = StageFolder(outcome.folder).input("task_data")
    assert request.inputs["text"] == pretrain.request.inputs["text"]
    assert StageFolder(task_data).request.inputs["text"] == request.inputs["text"]


def test_a_model_that_was_never_evaluated_gets_all_that_its_data_allows(finished: FakeStages) -> None:
    for folder in (finished.base / "artifacts" / "evaluate_sft").iterdir():
        (folder / "manifest.json").unlink()
    asked = asked_of("sft", [], finished.base)
    assert (asked.measures, asked.spec.chat_tasks) == (("chat",), OWN_TASKS)
    assert (asked.spec.max_new_tokens, asked.spec.core_examples) == (256, 0)


def test_the_task_data_is_the_models_own_or_the_newest_that_has_it_or_fetched(finished: FakeStages) -> None:
    own = lineage_of(find_model("sft", finished.base).model, finished.base).outcomes["task_data"]
    assert data_for({"words"}, finished.base, own=[own]).outcome == own
    assert data_for({"words"}, finished.base, own=[]).spec.source == "local"  # there is nothing from the Hub
    missing = data_for({"mmlu", "core"}, finished.base, own=[own])
    assert missing == AskedData(TaskDataSpec(datasets=("mmlu", "core")), None)
    with pytest.raises(ArtifactError, match="holds no task data"):
        data_for(set(), finished.base, own=[], given=finished.base)


def test_what_cannot_be_evaluated_is_refused_before_anything_starts(finished: FakeStages) -> None:
    bad = EvaluateSpec(chat_tasks=("Facts", "Facts", "Fact"), max_new_tokens=64, tool="calculater")
    with pytest.raises(SpecError, match=r"(?s)3 problems:.*more than once.*unknown task 'Fact'.*tool 'calculater'"):
        evaluate_model("sft", bad)
    own = str(lineage_of(find_model("sft", finished.base).model, finished.base).outcomes["task_data"].folder)
    with pytest.raises(SpecError, match="GSM8K needs the data set"):
        evaluate_model("sft", tasks=["GSM8K"], task_data=own)
    with pytest.raises(ArtifactError, match="which is no model"):
        evaluate_model(str(find_model("sft", finished.base).tokenizer))
    model = find_model("sft", finished.base).model
    content = json.loads((model / "manifest.json").read_text())
    content["files"][0]["pruned"] = True
    (model / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="removed by `nanochat gc`"):
        evaluate_model("base", tasks=["Facts"], against="sft")
    assert finished.ran() == []


def test_two_models_are_compared_on_the_same_questions(finished: FakeStages, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: find_model(name, finished.base).model.name for name in ("base", "sft")}
    shares = {names["base"]: {"Facts": 0.5, "Spelling": 0.5}, names["sft"]: {"Facts": 0.75, "Spelling": 0.5}}
    monkeypatch.setenv("FAKE_ACCURACY", json.dumps(shares))
    options = [
        "--tasks=Facts,Spelling",
        "--against=base",
        "--examples=200",
        "--samples=4",
        "--set",
        "top_k=7",
        "--set=launch.nproc_per_node=1",
    ]
    result = CliRunner().invoke(app, ["eval", "sft", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert finished.ran() == ["evaluate_sft", "evaluate_base"]
    assert "Answers are drawn at temperature 1" in result.output
    assert "sft against base, on the same questions" in result.output
    facts, spelling, overall = (
        next(line for line in reversed(result.output.splitlines()) if word in line)
        for word in ("Facts", "Spelling", "overall")
    )
    assert [cell.strip() for cell in facts.split("│")[1:-1]][:5] == ["Facts", "200", "75.0%", "50.0%", "+25.0"]
    assert "+0.0 to +0.0" in spelling and "+12.5" in overall
    (row,) = (line for line in result.output.splitlines() if "Who are you?" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["Who are you?", f"{names['sft']}.", f"{names['base']}."]
    (page,) = (finished.base / "reports" / "evaluations" / "evaluate_sft").glob("*/report.html")
    assert result.output.splitlines()[-1] == f"Each answer: {page}"
    assert "From Base to SFT" in page.read_text() and "800 answers, of 800 that were given." in page.read_text()
    (own,) = (finished.base / "artifacts" / "evaluate_sft").glob("*/differences/*.json")
    kept = artifacts.read_json(own)
    assert (kept["model"], kept["against"], [row["task"] for row in kept["rows"]]) == (
        "sft",
        "base",
        ["Facts", "Spelling", "overall"],
    )
    low, high = kept["rows"][0]["low"], kept["rows"][0]["high"]
    assert (kept["rows"][0]["difference"], low < 0.25 < high) == (0.25, True)
    manifest = artifacts.read_manifest(own.parents[1])
    assert manifest is not None and artifacts.damaged_files(own.parents[1], manifest) == []
    evaluated = StageFolder(own.parents[1]).request.params
    assert (evaluated["num_samples"], evaluated["temperature"], evaluated["top_k"]) == (4, 1.0, 7)


def test_the_command_prints_the_scores_and_refuses_in_one_line(finished: FakeStages) -> None:
    result = CliRunner().invoke(app, ["eval", "sft", "--tasks", "Facts", "--examples", "3"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "size" in result.stdout
    assert finished.ran() == ["evaluate_sft"]
    for arguments, said in (
        (["eval", "sfd"], "did you mean 'sft'"),
        (["eval", "sft", "--set", "topk=3"], "unknown field topk (did you mean 'top_k'"),
        (["eval", "sft", "--tasks", "Fact"], "did you mean 'Facts'"),
        (["eval", "sft", "--set", "again=no"], "again=no: expected true or false"),
    ):
        refused = CliRunner().invoke(app, arguments)
        assert (refused.exit_code, refused.stderr.count("\n"), said in refused.stderr) == (2, 1, True), refused.output
    assert finished.ran() == []


def test_an_evaluation_of_the_usual_measures_goes_by_no_names(finished: FakeStages) -> None:
    base, sft = (find_target(name, finished.base) for name in ("base", "sft"))
    asked = what_is_asked(base, [], None, finished.base)
    assert (tasks_for(base, asked), tasks_for(sft, asked)) == (None, ["bpb", "samples"])  # the demo has no CORE


def test_a_lineage_goes_back_to_the_text(finished: FakeStages) -> None:
    lineage = lineage_of(find_model("sft", finished.base).model, finished.base)
    assert next(iter(lineage.outcomes)) == lineage.stage == "sft"
    assert set(lineage.outcomes) == {"sft", "tokenizer", "conversations_sft", "pretrain", "download", "task_data"}
    assert lineage.shape == recipe("demo").pretrain.model.model_copy(update={"n_kv_head": 4})
    assert lineage.task_data.source == "local"
