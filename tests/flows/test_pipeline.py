"""The pipeline on fake stages: what is reused, what runs again, and how it resumes."""

import json
from pathlib import Path

import pytest

from flows.pipeline import PipelineResult, pipeline
from nanochat_core.errors import NanochatError, SpecError, StageFailed
from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages

FULL_ORDER = ["download", "task_data", "tokenizer", "pretrain", "evaluate_base", "conversations_midtrain", "midtrain", "evaluate_mid", "conversations_sft", "sft", "evaluate_sft", "conversations_rl", "rl", "evaluate_rl"]
ORDER = ["download", "task_data", "tokenizer", "pretrain", "evaluate_base", "conversations_sft", "sft", "evaluate_sft"]


@pytest.fixture
def spec() -> PipelineSpec:
    """The demo without the stages that recipes may leave out."""
    return recipe("demo").model_copy(update={"midtrain": None, "rl": None})


def folder_of(result: PipelineResult, stage: str) -> Path:
    return next(outcome.folder for outcome in result.outcomes if outcome.stage == stage)


def test_a_second_run_is_cached_from_end_to_end_and_starts_no_process(fake_stages: FakeStages) -> None:
    spec = recipe("demo")
    first = pipeline(spec)
    assert fake_stages.ran() == FULL_ORDER
    assert {outcome.state for outcome in first.outcomes} == {"Completed"}
    second = pipeline(spec)
    assert fake_stages.ran() == []
    assert {outcome.state for outcome in second.outcomes} == {"Cached"}
    assert all(outcome.is_cached for outcome in second.outcomes)
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]


def test_a_crash_is_told_with_its_last_lines_and_the_same_command_goes_on(
    fake_stages: FakeStages, spec: PipelineSpec
) -> None:
    fake_stages.fail("sft", "crash")
    with pytest.raises(StageFailed, match="sft crashed") as failure:
        pipeline(spec)
    assert "the fake stage crashed" in str(failure.value)
    assert fake_stages.ran() == ORDER[: ORDER.index("sft") + 1]
    fake_stages.heal()
    result = pipeline(spec)
    assert fake_stages.ran() == ORDER[ORDER.index("sft") :]
    lines = (folder_of(result, "sft") / "metrics.jsonl").read_text().splitlines()
    steps = [(line["attempt"], line["step"]) for line in map(json.loads, lines)]
    assert steps == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4)]  # it continued from its checkpoint at step 2


def test_bad_input_ends_in_the_stages_own_words_and_code_2(fake_stages: FakeStages, spec: PipelineSpec) -> None:
    fake_stages.fail("download", "input")
    with pytest.raises(NanochatError, match="download: shard 3 is corrupt: delete it") as failure:
        pipeline(spec)
    assert failure.value.exit_code == 2


def test_a_preempted_stage_says_that_it_can_be_continued(fake_stages: FakeStages, spec: PipelineSpec) -> None:
    fake_stages.fail("download", "preempted")
    with pytest.raises(StageFailed, match="The same command continues it") as failure:
        pipeline(spec)
    assert failure.value.exit_code == 75


def test_a_deleted_output_that_is_rebuilt_identically_reruns_its_stage_alone(
    fake_stages: FakeStages, spec: PipelineSpec
) -> None:
    (folder_of(pipeline(spec), "pretrain") / "output.bin").unlink()
    fake_stages.ran()
    pipeline(spec)
    assert fake_stages.ran() == ["pretrain"]


def test_a_damaged_output_that_is_rebuilt_differently_reruns_what_depends_on_it(
    fake_stages: FakeStages, spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder_of(pipeline(spec), "sft") / "output.bin").write_bytes(b"!" * 32)
    fake_stages.ran()
    monkeypatch.setenv("FAKE_NONDETERMINISTIC", "sft")
    pipeline(spec)
    assert fake_stages.ran() == ["sft", "evaluate_sft"]


def test_a_changed_sft_reuses_everything_before_it(fake_stages: FakeStages, spec: PipelineSpec) -> None:
    pipeline(spec)
    fake_stages.ran()
    pipeline(with_changes(spec, {"sft.seed": 7}))
    assert fake_stages.ran() == ["sft", "evaluate_sft"]


def test_a_field_of_the_runtime_changes_no_fingerprint(fake_stages: FakeStages, spec: PipelineSpec) -> None:
    pipeline(spec)
    fake_stages.ran()
    changes = {"pretrain.runtime.device_batch_size": 3, "launch.nproc_per_node": 1, "run_name": "other"}
    result = pipeline(with_changes(spec, changes))
    assert fake_stages.ran() == []
    assert result.report.name == "other"


def test_force_redoes_a_stage_and_keeps_what_depends_on_equal_bytes(
    fake_stages: FakeStages, spec: PipelineSpec
) -> None:
    result = pipeline(spec)
    fake_stages.ran()
    pipeline(with_changes(spec, {"force": ["pretrain"]}))
    assert fake_stages.ran() == ["pretrain"]
    assert '"attempt": 2' not in (folder_of(result, "pretrain") / "metrics.jsonl").read_text()
    pipeline(spec)
    assert fake_stages.ran() == []


def test_another_base_folder_starts_from_nothing(
    fake_stages: FakeStages, spec: PipelineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline(spec)
    fake_stages.ran()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "other"))
    second = pipeline(spec)
    assert fake_stages.ran() == ORDER
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]


def test_a_recipe_that_cannot_be_run_yet_is_refused_in_one_line(fake_stages: FakeStages) -> None:
    with pytest.raises(SpecError, match="can be planned but not run"):
        pipeline(recipe("speedrun"))
    assert fake_stages.ran() == []


def test_only_stages_that_fetch_from_the_hub_see_its_token(
    fake_stages: FakeStages, spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "MLFLOW_RUN_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hidden")
    result = pipeline(spec)
    assert "secrets here: ['HF_TOKEN']" in (folder_of(result, "download") / "log.txt").read_text()
    assert "secrets here: []" in (folder_of(result, "pretrain") / "log.txt").read_text()
