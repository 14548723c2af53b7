"""Curation in the pipeline: which model is asked, and what it does to fingerprints and to the report."""

from pathlib import Path

import pytest

from flows.earlier_model import earlier_of
from flows.finetune import base_model, conversations_for
from flows.pretrain import PRETRAIN
from flows.report.content import StageFiles, data_entry
from flows.stage import StageOutcome
from nanochat_core.errors import SpecError
from nanochat_core.recipes import recipe, resolve, runnable
from nanochat_core.specs import PipelineSpec, with_changes

CURATION = "sft.conversations.curation"


def demo(**changes: object) -> PipelineSpec:
    return with_changes(resolve(recipe("demo")), {name.replace("__", "."): value for name, value in changes.items()})


def test_a_model_is_an_input_only_where_perplexity_is_asked_for() -> None:
    plain, asked = demo(), demo(sft__conversations__curation__drop_worst_perplexity=0.1)
    assert set(conversations_for("sft").inputs(plain)) == {"tokenizer", "task_data"}
    assert conversations_for("sft").inputs(asked)["model"] is PRETRAIN
    assert set(conversations_for("midtrain").inputs(asked)) == {"tokenizer", "task_data"}


def test_the_model_that_is_asked_is_the_one_that_fine_tuning_begins_with() -> None:
    start = {"midtrain": "pretrain/0123456789abcdef", "sft": "sft/0123456789abcdef"}
    assert base_model(demo(), "sft") is PRETRAIN
    assert base_model(demo(midtrain__start_from=start["midtrain"]), "sft").name == earlier_of("midtrain").name
    both = demo(midtrain__start_from=start["midtrain"], sft__start_from=start["sft"])
    assert base_model(both, "sft").name == earlier_of("sft").name
    assert base_model(both, "midtrain").name == earlier_of("midtrain").name
    assert base_model(demo(midtrain=None), "rl") is PRETRAIN


def test_without_curation_what_is_fingerprinted_is_what_it_was_before_there_was_any() -> None:
    conversations = conversations_for("sft")
    assert "curation" not in conversations.params(demo()).output
    curated = conversations.params(demo(sft__conversations__curation__drop_duplicates=True))
    assert curated.output["curation"]["drop_duplicates"] is True


def test_tasks_whose_lengths_are_matched_must_exist_and_have_their_data() -> None:
    spec = with_changes(recipe("demo"), {f"{CURATION}.match_lengths": ("Aritmetic", "GSM8K")})
    with pytest.raises(SpecError, match=r"curation\.match_lengths: unknown task 'Aritmetic'") as error:
        runnable(spec)
    assert f"{CURATION}.match_lengths: GSM8K needs the data set 'gsm8k'" in str(error.value)


def test_the_report_s_data_say_what_was_left_out_of_each_task_and_why() -> None:
    outcome = StageOutcome("conversations_sft", Path("x"), "d", False, 1.0, None)
    details = {"train": {"left_out": {"MMLU": {"duplicate": 2, "length": 1}}}}
    entry = data_entry(demo(), {"conversations_sft": StageFiles(outcome, {"left_out_rows": 3}, details, [])})
    assert entry["conversations_sft_left_out_rows"] == 3
    assert entry["conversations_sft_left_out"] == "MMLU 2 duplicate, 1 length"
