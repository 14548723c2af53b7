"""From a model's name to its folder."""

from pathlib import Path

import pytest

from flows.model_ref import check_weights, find_model
from flows.pipeline import pipeline
from flows.train_tokenizer import train_tokenizer
from nanochat_core import artifacts
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages


def stage_of(folder: Path) -> str:
    return folder.parent.name


def test_names_mean_the_models_of_the_newest_run(finished: FakeStages, short_spec: PipelineSpec) -> None:
    pipeline(short_spec)
    for reference, stage in (("base", "pretrain"), ("sft", "sft"), (None, "sft")):
        folders = find_model(reference, finished.base)
        assert (stage_of(folders.model), stage_of(folders.tokenizer)) == (stage, "tokenizer")
    assert find_model(str(folders.model), finished.base) == folders
    with pytest.raises(ArtifactError, match="has no model 'rl'"):
        find_model("rl", finished.base)
    with pytest.raises(ArtifactError, match="the output of tokenizer, which is no model"):
        find_model(str(folders.tokenizer), finished.base)


def test_a_run_without_a_model_does_not_take_the_place_of_one_with_models(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    base = find_model("base", finished.base)
    train_tokenizer(with_changes(short_spec, {"download.seed": 5}))
    assert "tokenizer" in finished.ran()
    assert find_model("base", finished.base) == base


def test_an_unfinished_or_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no finished stage"):
        find_model(str(tmp_path), tmp_path)
    with pytest.raises(SpecError, match="is no model and no artifact folder"):
        find_model("nanochat@champion", tmp_path)


def test_a_registered_model_is_found_by_alias_and_by_version(finished: FakeStages) -> None:
    for reference in ("models:/nanochat-demo-sft@newest", "models:/nanochat-demo-sft/1"):
        folders = find_model(reference, finished.base)
        assert (stage_of(folders.model), stage_of(folders.tokenizer)) == ("sft", "tokenizer")


def test_a_model_whose_weights_were_pruned_is_named_but_not_loaded(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    folders = find_model("sft", finished.base)
    check_weights(folders)
    manifest = artifacts.read_manifest(folders.model)
    assert manifest is not None
    files = [record.model_copy(update={"pruned": True}) for record in manifest.files]
    artifacts.write_json(folders.model / "manifest.json", manifest.model_copy(update={"files": files}).model_dump())
    assert find_model("sft", finished.base) == folders
    with pytest.raises(ArtifactError, match=r"removed by `nanochat gc`.*--force sft"):
        check_weights(folders)
