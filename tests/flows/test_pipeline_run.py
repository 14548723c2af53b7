"""One run of the pipeline: its name, and what it says of outputs that it reuses."""

from pathlib import Path

import pytest

from flows.pipeline_run import made_by_other_code, run_name
from flows.stage import StageOutcome
from nanochat_core.errors import SpecError
from nanochat_core.recipes import recipe
from nanochat_core.specs import with_changes


def outcome(stage: str, commit: str, *, is_cached: bool = True) -> StageOutcome:
    return StageOutcome(stage, Path(), digest="d", is_cached=is_cached, seconds=1.0, git_commit=commit)


def test_outputs_of_other_code_are_reported_in_one_line_for_each_commit() -> None:
    outcomes = [outcome("download", "3fa2c1b"), outcome("tokenizer", "3fa2c1b"), outcome("sft", "9d0e7aa")]
    made_now = outcome("rl", "9d0e7aa", is_cached=False)
    assert made_by_other_code([*outcomes, made_now], "9d0e7aa") == [
        "cached by 3fa2c1b, now 9d0e7aa; --force to redo: download, tokenizer"
    ]
    assert made_by_other_code(outcomes[:1], "9d0e7aa", "--set again=true") == [
        "cached by 3fa2c1b, now 9d0e7aa; --set again=true to redo: download"
    ]


def test_a_run_name_must_be_able_to_name_a_folder() -> None:
    assert run_name(with_changes(recipe("demo"), {"run_name": "my-run.2"})) == "my-run.2"
    assert run_name(recipe("demo")).startswith("demo-d4-")
    for name in ("../up", "latest", ".hidden", "a b"):
        with pytest.raises(SpecError, match="cannot name a folder"):
            run_name(with_changes(recipe("demo"), {"run_name": name}))
