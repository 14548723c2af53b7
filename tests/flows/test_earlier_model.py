"""Pretraining from an earlier one: the folder is an input, its digest counts, and what cannot be is refused at once."""

from pathlib import Path
from typing import Any

import pytest

from flows.earlier_model import check_is_whole, with_earlier
from flows.pipeline import pipeline
from flows.stage import StageOutcome
from nanochat_core import artifacts
from nanochat_core.artifacts import FileRecord, Manifest, read_json
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.model.accounting import derive_shape
from nanochat_core.model.context import extended
from nanochat_core.recipes import recipe, resolve
from nanochat_core.specs import ModelSpec, PipelineSpec, with_changes
from tests.flows.conftest import FakeStages

SHAPE = derive_shape(recipe("demo").pretrain.model)


def finished_stage(base: Path, stage: str = "pretrain", model: ModelSpec = SHAPE, **changes: Any) -> Path:
    """Write the folder of a finished stage."""
    folder = base / "artifacts" / stage / "0123456789abcdef"
    folder.mkdir(parents=True)
    manifest = Manifest(
        stage=stage,
        version=1,
        fingerprint="f",
        params={"model": model.model_dump()},
        inputs={},
        files=[FileRecord(path="checkpoints/last/model.safetensors", size=1, sha256="s", **changes)],
        digest="digest of the earlier",
        metrics={},
        created=1.0,
    )
    artifacts.write_json(folder / "manifest.json", manifest.model_dump())
    return folder


def going_on(start: str, **changes: Any) -> PipelineSpec:
    return resolve(with_changes(recipe("demo"), {"pretrain.start_from": start} | changes))


@pytest.mark.slow
def test_the_new_run_has_the_earlier_model_as_an_input_and_its_context_extended(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    first = pipeline(short_spec)
    earlier = next(outcome for outcome in first.outcomes if outcome.stage == "pretrain")
    longer = with_changes(short_spec, {"pretrain.start_from": str(earlier.folder), "pretrain.model.sequence_len": 256})
    second = pipeline(longer)
    ran = finished.ran()
    assert ran[0] == "pretrain" and "tokenizer" not in ran
    made = next(outcome for outcome in second.outcomes if outcome.stage == "pretrain")
    request = read_json(made.folder / "spec.json")
    assert request["inputs"]["model"] == f"pretrain/{earlier.folder.name}"
    assert request["input_digests"]["model"] == earlier.digest
    assert "start_from" not in request["params"]
    model = ModelSpec.model_validate(request["params"]["model"])
    assert model == extended(ModelSpec.model_validate(read_json(earlier.folder / "spec.json")["params"]["model"]), 256)
    assert "earlier_pretrain" in (second.report / "report.md").read_text()
    pipeline(longer)
    assert finished.ran() == []


@pytest.mark.parametrize("start", ["pretrain/0123456789abcdef", "{base}/artifacts/pretrain/0123456789abcdef"])
def test_the_folder_is_named_by_its_path_or_by_its_place_among_the_artifacts(start: str, tmp_path: Path) -> None:
    folder = finished_stage(tmp_path)
    spec, outcomes = with_earlier(going_on(start.format(base=tmp_path)), tmp_path)
    assert outcomes["earlier_pretrain"].folder == folder
    assert outcomes["earlier_pretrain"].digest == "digest of the earlier"
    assert spec.pretrain.model == SHAPE


def test_without_an_earlier_one_nothing_changes(tmp_path: Path) -> None:
    spec = resolve(recipe("demo"))
    assert with_earlier(spec, tmp_path) == (spec, {})


@pytest.mark.parametrize(
    ("stage", "spec", "problem"),
    [
        ("pretrain", going_on("pretrain/nothing"), "there is no folder 'pretrain/nothing', here or in"),
        ("sft", going_on("sft/0123456789abcdef"), "holds the output of sft; expected the folder of a finished pretra"),
        ("pretrain", going_on("pretrain"), "is no stage's folder in"),
        (
            "pretrain",
            going_on("pretrain/0123456789abcdef", **{"pretrain.model.depth": 6}),
            "model.depth 6, there it is 4",
        ),
        (
            "pretrain",
            going_on("pretrain/0123456789abcdef", **{"pretrain.model.sequence_len": 64}),
            "rows of 128 tokens and cannot go on at a sequence_len of 64",
        ),
    ],
)
def test_what_is_no_earlier_pretraining_of_the_same_shape_is_refused(
    stage: str, spec: PipelineSpec, problem: str, tmp_path: Path
) -> None:
    finished_stage(tmp_path, stage)
    with pytest.raises(SpecError) as refusal:
        with_earlier(spec, tmp_path)
    assert problem in str(refusal.value)
    assert str(refusal.value).startswith("pretrain.start_from: ")


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    (finished_stage(tmp_path) / "manifest.json").unlink()
    with pytest.raises(SpecError, match="holds no finished stage"):
        with_earlier(going_on("pretrain/0123456789abcdef"), tmp_path)


def test_weights_that_gc_has_removed_are_missed_only_where_they_are_needed(tmp_path: Path) -> None:
    finished_stage(tmp_path, pruned=True)
    _, outcomes = with_earlier(going_on("pretrain/0123456789abcdef"), tmp_path)
    with pytest.raises(ArtifactError, match=r"were removed by `nanochat gc`\. Train it again"):
        check_is_whole(outcomes["earlier_pretrain"])
    check_is_whole(StageOutcome("pretrain", tmp_path, "", True, 0.0, None))
