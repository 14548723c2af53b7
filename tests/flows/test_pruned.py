"""Outputs that were removed to free the disk: done all the same, and made again where something needs them."""

import pytest

from flows.pipeline import PipelineResult, pipeline
from nanochat_core import artifacts
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages


def prune(result: PipelineResult, *stages: str) -> None:
    """Remove the output of some stages, and have their manifests say so."""
    for outcome in result.outcomes:
        if outcome.stage in stages:
            manifest = artifacts.read_manifest(outcome.folder)
            assert manifest is not None
            files = [record.model_copy(update={"pruned": True}) for record in manifest.files]
            artifacts.write_json(
                outcome.folder / "manifest.json", manifest.model_copy(update={"files": files}).model_dump()
            )
            for record in files:
                (outcome.folder / record.path).unlink()


def digests(result: PipelineResult) -> dict[str, str]:
    return {outcome.stage: outcome.digest for outcome in result.outcomes}


def test_pruned_weights_do_not_make_a_finished_pipeline_run_again(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    prune(pipeline(short_spec), "download", "pretrain", "sft")
    again = pipeline(short_spec)
    assert finished.ran() == []
    assert {outcome.state for outcome in again.outcomes} == {"Cached"}


@pytest.mark.slow
def test_a_stage_that_must_run_has_its_pruned_inputs_made_again_with_the_same_bytes(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    first = pipeline(short_spec)
    prune(first, "pretrain")
    second = pipeline(with_changes(short_spec, {"sft.seed": 8}))
    assert finished.ran() == ["pretrain", "sft", "evaluate_sft"]
    assert digests(second)["pretrain"] == digests(first)["pretrain"]
    assert pipeline(short_spec).outcomes[3].state == "Cached"
    assert finished.ran() == []


def test_what_a_pruned_input_needs_itself_is_made_again_before_it(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    prune(pipeline(short_spec), "download", "tokenizer", "pretrain", "conversations_sft")
    pipeline(with_changes(short_spec, {"evaluate.core_examples": 3}))
    assert finished.ran() == ["download", "tokenizer", "pretrain", "evaluate_base"]


@pytest.mark.slow
def test_a_pruned_stage_that_is_rebuilt_differently_redoes_what_depends_on_it(
    finished: FakeStages, short_spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune(pipeline(short_spec), "pretrain")
    monkeypatch.setenv("FAKE_NONDETERMINISTIC", "pretrain")
    pipeline(with_changes(short_spec, {"sft.seed": 8}))
    assert finished.ran() == ["pretrain", "sft", "evaluate_sft"]
    pipeline(short_spec)
    assert finished.ran() == ["evaluate_base", "sft", "evaluate_sft"]


@pytest.mark.slow
def test_a_forced_stage_needs_its_inputs(finished: FakeStages, short_spec: PipelineSpec) -> None:
    prune(pipeline(short_spec), "pretrain")
    pipeline(with_changes(short_spec, {"force": ["sft"]}))
    assert finished.ran() == ["conversations_sft", "pretrain", "sft"]
