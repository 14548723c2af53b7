"""What is fingerprinted of a stage, and what is left in its folder before it runs again."""

from pathlib import Path
from typing import Any

from flows.evaluate import evaluation_of, evaluations
from flows.finetune import SFT
from flows.pretrain import PRETRAIN
from flows.stage import Job, StageOutcome, StageParams, drop_output
from nanochat_core.model_chain import CALLED
from nanochat_core.recipes import recipe, resolve
from nanochat_core.specs import with_changes


def test_runtime_fields_reach_the_stage_but_not_the_fingerprint() -> None:
    params = PRETRAIN.params(resolve(recipe("demo")))
    assert params.full["runtime"]["stall_minutes"] == 10
    assert "runtime" not in params.output
    assert params.output["model"]["depth"] == params.full["model"]["depth"] == 4


def test_what_a_stage_is_measured_on_reaches_it_but_not_the_fingerprint(tmp_path: Path) -> None:
    spec = resolve(recipe("demo"))
    plain = with_changes(spec, {"sft.evaluators": []})
    assert SFT.params(spec).output == SFT.params(plain).output
    assert SFT.params(spec).full["evaluators"][0]["name"] == "chatcore"
    assert list(SFT.measured_on(spec)) == ["task_data"] and SFT.measured_on(plain) == {}
    assert PRETRAIN.measured_on(spec) == {}
    sources = {name: outcome_in(tmp_path / "artifacts" / name / "x") for name in ("model", "task_data")}
    inputs = {"model": sources.pop("model")}
    jobs = [Job(SFT, spec, tmp_path, inputs, FakeObserver(), measured_on=data) for data in ({}, sources)]
    assert jobs[0].fingerprint == jobs[1].fingerprint
    assert jobs[1].request.inputs == {"model": "model/x", "task_data": "task_data/x"}
    assert jobs[1].request.input_digests == jobs[0].request.input_digests == {"model": "d"}


class FakeObserver:
    def started(self) -> None:
        pass

    def measured(self, lines: list[dict[str, Any]]) -> None:
        pass


def outcome_in(folder: Path) -> StageOutcome:
    return StageOutcome(folder.parent.name, folder, "d", is_cached=True, seconds=0.0, git_commit=None)


def test_an_evaluation_depends_only_on_the_fields_that_it_uses() -> None:
    spec = recipe("demo")
    changed = with_changes(spec, {"evaluate.core_examples": 7})
    assert evaluation_of(CALLED["base"]).params(spec).output != evaluation_of(CALLED["base"]).params(changed).output
    assert evaluation_of(CALLED["sft"]).params(spec).output == evaluation_of(CALLED["sft"]).params(changed).output
    assert evaluation_of(CALLED["sft"]).params(spec).full["model_name"] == "sft"


def test_a_recipe_without_midtraining_goes_from_base_to_sft() -> None:
    spec = recipe("demo")
    short = with_changes(spec, {"midtrain": None, "rl": None})
    assert SFT.inputs(spec)["model"].name == "midtrain"
    assert SFT.inputs(short)["model"].name == "pretrain"
    assert [stage.name for stage in evaluations(short)] == ["evaluate_base", "evaluate_sft"]


def test_excluded_and_extra_fields_are_so_in_both_kinds_of_params() -> None:
    params = StageParams.of(recipe("demo").sft, exclude=["conversations"], extra=1)
    assert "conversations" not in params.full and "conversations" not in params.output
    assert params.full["extra"] == params.output["extra"] == 1


def test_a_damaged_checkpoint_goes_as_a_whole_and_another_output_alone(tmp_path: Path) -> None:
    for name in (
        "checkpoints/step_2/model",
        "checkpoints/step_2/meta",
        "checkpoints/step_1/model",
        "shards/a",
        "shards/b",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    drop_output(tmp_path, "checkpoints/step_2/model")
    drop_output(tmp_path, "shards/a")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"checkpoints/step_1/model", "shards/b"}
