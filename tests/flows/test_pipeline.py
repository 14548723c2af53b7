"""The pipeline on fake stages: what is reused, what runs again, and how it resumes."""

import json
import os
from pathlib import Path

import pytest

from flows.pipeline import PipelineResult, pipeline
from nanochat_core.errors import NanochatError, SpecError, StageFailed
from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages

TEXT = ["download", "task_data", "tokenizer"]
SHORT = [*TEXT, "pretrain", "evaluate_base", "conversations_sft", "sft", "evaluate_sft"]
MIDDLE = ["conversations_midtrain", "midtrain", "evaluate_mid"]
FULL = [*SHORT[:5], *MIDDLE, *SHORT[5:], "conversations_rl", "rl", "evaluate_rl"]


def folder_of(result: PipelineResult, stage: str) -> Path:
    return next(outcome.folder for outcome in result.outcomes if outcome.stage == stage)


def test_a_second_run_is_cached_from_end_to_end_and_starts_no_process(fake_stages: FakeStages) -> None:
    first = pipeline(recipe("demo"))
    assert fake_stages.ran() == FULL
    assert {outcome.state for outcome in first.outcomes} == {"Completed"}
    second = pipeline(recipe("demo"))
    assert fake_stages.ran() == []
    assert {outcome.state for outcome in second.outcomes} == {"Cached"}
    assert all(outcome.is_cached for outcome in second.outcomes)
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]


def test_after_a_crash_the_same_command_goes_on_from_the_checkpoint(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    finished.fail("sft", "crash")
    spec = with_changes(short_spec, {"sft.seed": 7})
    with pytest.raises(StageFailed, match=r"sft crashed[^$]*the fake stage crashed"):
        pipeline(spec)
    assert finished.ran() == ["sft"]
    finished.heal()
    result = pipeline(spec)
    assert finished.ran() == ["sft", "evaluate_sft"]
    lines = (folder_of(result, "sft") / "metrics.jsonl").read_text().splitlines()
    steps = [(line["attempt"], line["step"]) for line in map(json.loads, lines)]
    assert steps == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4)]  # the checkpoint is of step 2


def test_bad_input_ends_in_the_stages_own_words_and_code_2(fake_stages: FakeStages, short_spec: PipelineSpec) -> None:
    fake_stages.fail("download", "input")
    with pytest.raises(NanochatError, match="download: shard 3 is corrupt: delete it") as failure:
        pipeline(short_spec)
    assert failure.value.exit_code == 2


def test_a_preempted_stage_is_tried_again_and_then_says_that_it_can_be_continued(
    fake_stages: FakeStages, short_spec: PipelineSpec
) -> None:
    fake_stages.fail("download", "preempted")
    with pytest.raises(StageFailed, match="The same command continues it") as failure:
        pipeline(with_changes(short_spec, {"launch.retries": 2, "launch.retry_seconds": 0}))
    assert failure.value.exit_code == 75
    assert fake_stages.ran() == ["download"] * 3


def test_a_crash_and_bad_input_are_not_tried_again(fake_stages: FakeStages, short_spec: PipelineSpec) -> None:
    for failure in ("crash", "input"):
        fake_stages.fail("download", failure)
        with pytest.raises(NanochatError):
            pipeline(with_changes(short_spec, {"launch.retry_seconds": 0}))
        assert fake_stages.ran() == ["download"]


def test_a_deleted_output_that_is_rebuilt_identically_reruns_its_stage_alone(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    (folder_of(pipeline(short_spec), "pretrain") / "output.bin").unlink()
    pipeline(short_spec)
    assert finished.ran() == ["pretrain"]


def test_a_damaged_output_that_is_rebuilt_differently_reruns_what_depends_on_it(
    finished: FakeStages, short_spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder_of(pipeline(short_spec), "sft") / "output.bin").write_bytes(b"!" * 32)  # its size is right
    monkeypatch.setenv("FAKE_NONDETERMINISTIC", "sft")
    pipeline(short_spec)
    assert finished.ran() == ["sft", "evaluate_sft"]


def test_lost_records_of_prefects_cost_nothing(finished: FakeStages, short_spec: PipelineSpec) -> None:
    records = list((Path(os.environ["PREFECT_HOME"]) / "storage").glob("stage-*"))
    assert records
    for record in records:
        record.unlink()
    result = pipeline(short_spec)
    assert finished.ran() == []
    assert all(outcome.is_cached and outcome.state == "Completed" for outcome in result.outcomes)


def test_a_changed_sft_reuses_everything_before_it(finished: FakeStages, short_spec: PipelineSpec) -> None:
    pipeline(with_changes(short_spec, {"sft.seed": 8}))
    assert finished.ran() == ["sft", "evaluate_sft"]


def test_a_changed_depth_redoes_all_that_derives_from_it(finished: FakeStages, short_spec: PipelineSpec) -> None:
    pipeline(with_changes(short_spec, {"pretrain.model.depth": 6}))
    assert finished.ran() == ["pretrain", "evaluate_base", "sft", "evaluate_sft"]


def test_a_field_of_the_runtime_changes_no_fingerprint(finished: FakeStages, short_spec: PipelineSpec) -> None:
    changes = {"pretrain.runtime.device_batch_size": 3, "launch.nproc_per_node": 1, "run_name": "other"}
    result = pipeline(with_changes(short_spec, changes))
    assert finished.ran() == []
    assert result.report.name == "other"


def test_force_redoes_a_stage_and_keeps_what_depends_on_equal_bytes(
    finished: FakeStages, short_spec: PipelineSpec
) -> None:
    result = pipeline(with_changes(short_spec, {"force": ["pretrain"]}))
    assert finished.ran() == ["pretrain"]
    assert '"attempt": 2' not in (folder_of(result, "pretrain") / "metrics.jsonl").read_text()
    pipeline(short_spec)
    assert finished.ran() == []


@pytest.mark.slow
def test_another_base_folder_starts_from_nothing_and_ends_with_equal_digests(
    finished: FakeStages, short_spec: PipelineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline(short_spec)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "other"))
    second = pipeline(short_spec)
    assert finished.ran() == SHORT
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]


def test_a_recipe_that_cannot_be_run_here_is_refused_in_one_line(
    fake_stages: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SpecError, match="'fp8' needs GPUs that compute in it, here is none"):
        pipeline(with_changes(recipe("demo"), {"pretrain.precision": "fp8"}))
    assert fake_stages.ran() == []


def test_only_stages_that_fetch_from_the_hub_see_its_token(finished: FakeStages, short_spec: PipelineSpec) -> None:
    result = pipeline(short_spec)
    assert "secrets here: ['HF_TOKEN']" in (folder_of(result, "download") / "log.txt").read_text()
    assert "secrets here: []" in (folder_of(result, "pretrain") / "log.txt").read_text()
