"""What the report says of evaluations: each number with its error, and how it was measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.evaluation.statistics import paired_difference
from flows.report.content import report
from flows.report.evaluation.answers import read_evaluation
from flows.report.evaluation.page import write_evaluation_page
from nanochat_core.recipes import recipe, resolve
from tests.flows.report.evaluation.made_up import (
    MMLU_RIGHT,
    QUESTIONS,
    base_scores,
    chat_scores,
    copa,
    evaluation,
    evaluations,
    gsm8k,
    mmlu,
)

SPEC = resolve(recipe("demo"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    return report(base, SPEC, evaluations(base), "run")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.md").read_text()


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_score_has_its_error(text: str) -> None:
    rows = section(text, "Scores")
    assert "| CORE, some of its tasks | 0.1000 ± 0.0200 |" in rows
    assert "| ChatCORE | – | 0.3000 ± 0.0123 |" in rows
    assert "| MMLU | – | 0.2500 ± 0.0500 (40) | 0.5000 ± 0.0500 (40) |" in rows


def test_a_partial_core_names_what_is_missing_and_is_not_called_core(text: str) -> None:
    rows = section(text, "Scores")
    assert "- Base: no CORE, for that takes 22 tasks and 1 of them was measured. Missing: piqa, boolq." in rows
    assert "\n| CORE |" not in rows


def test_models_of_which_other_tasks_make_chatcore_say_so(tmp_path: Path, text: str) -> None:
    assert "ChatCORE is the mean over MMLU, GSM8K of accuracy above guessing." in section(text, "Scores")
    other = chat_scores("rl") | {"chatcore": {"value": 0.1, "stderr": 0.01, "tasks": ["MMLU"]}}
    found = [evaluation(tmp_path, "sft", chat_scores("sft"), {}), evaluation(tmp_path, "rl", other, {})]
    rows = section((report(tmp_path, SPEC, found, "run") / "report.md").read_text(), "Scores")
    assert "- ChatCORE of SFT: MMLU, GSM8K.\n- ChatCORE of RL: MMLU.\n" in rows


def test_how_each_score_was_measured_stands_beside_it(text: str) -> None:
    rows = section(text, "How the scores were measured")
    asked = "0.5000 | 3 | 1 | 0 | 2 | 42 | 0123456789abcdef | – | – |"
    assert f"| Base | copa | 0.3333 | 0.2333 to 0.4333 | 0.2000 | {asked}" in rows
    assert "| 0.0000 | 10 | 4 | – | 2 | 42 | 0123456789abcdef | calculator | full |" in rows


def test_the_parts_of_a_task_have_a_table(text: str) -> None:
    rows = section(text, "MMLU by part")
    assert "| part | Mid | SFT | RL |" in rows
    cell = "0.1250 ± 0.0500 (20)"
    assert f"| world religions | {cell} | {cell} | {cell} |" in rows


def test_accuracy_over_the_answers_drawn_is_a_table_and_a_curve(folder: Path, text: str) -> None:
    rows = section(text, "Accuracy over the answers drawn")
    assert "| GSM8K | SFT | 2 | 0.4375 ± 0.0600 | 0.2500 ± 0.0500 |" in rows
    assert "| GSM8K | SFT | 4 | 0.6000 ± 0.0700 | – |" in rows
    picture = (folder / "plots" / "scaling_1.svg").read_text()
    assert "RL: any is right" in picture and "RL: majority is right" in picture


def test_successive_models_are_compared_on_the_questions_both_were_asked(folder: Path, text: str) -> None:
    rows = section(text, "From Mid to SFT")
    found = paired_difference(
        [index < MMLU_RIGHT["mid"] for index in range(QUESTIONS)],
        [index < MMLU_RIGHT["sft"] for index in range(QUESTIONS)],
        confidence=0.95,
    )
    ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    assert f"| MMLU | 40 | 25.0 % | 50.0 % | +25.0 | {ends} | better |" in rows
    assert "| GSM8K | 10 | 22.5 % | 22.5 % | +0.0 | +0.0 to +0.0 | no clear difference |" in rows
    assert "| mean of the tasks | 50 |" in rows
    assert "From Base to" not in text
    content = json.loads((folder / "report.json").read_text())
    assert content["differences"][0]["tasks"]["MMLU"]["difference"] == 0.25


@pytest.mark.parametrize("changed", [{"version": 3}, {"prompt_hash": "f" * 16}])
def test_a_task_that_was_asked_in_another_way_is_not_compared(tmp_path: Path, changed: dict[str, Any]) -> None:
    scores = chat_scores("sft")
    scores["tasks"]["MMLU"] |= changed
    found = [
        evaluation(tmp_path, "mid", chat_scores("mid"), {"MMLU": mmlu("mid")}),
        evaluation(tmp_path, "sft", scores, {"MMLU": mmlu("sft")}),
    ]
    rows = section((report(tmp_path, SPEC, found, "run") / "report.md").read_text(), "From Mid to SFT")
    assert f"- MMLU is left out: {next(iter(changed))} " in rows and "| MMLU |" not in rows


def test_contamination_is_reported_by_task_with_an_overlap(text: str) -> None:
    rows = section(text, "Contamination")
    assert "| MMLU | 40 | 36 | 2 | 1 | 5.00 % |" in rows
    assert "where 13 successive words" in rows and "of which 2 of 20 shards were read" in rows
    assert "> `MMLU, question 7, is in shard_00001.parquet`" in rows
    assert "> `which <b>organ</b> number seven is the largest of them all`" in rows


def test_every_accuracy_is_drawn_with_its_interval(folder: Path) -> None:
    picture = (folder / "plots" / "scores.svg").read_text()
    assert all(word in picture for word in ("copa", "MMLU", "GSM8K", "Base", "guessing"))


def test_every_number_of_the_pages_is_in_the_json(folder: Path) -> None:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert content["evaluations"]["rl"] == chat_scores("rl")
    assert content["evaluations"]["base"]["core"] == base_scores()["core"]
    assert content["contamination"]["tasks"]["MMLU"]["share"] == 0.05


def test_answers_that_cannot_be_read_are_named_and_cost_no_report(tmp_path: Path) -> None:
    found = [
        evaluation(tmp_path, "base", base_scores(), {"copa": copa()}),
        evaluation(tmp_path, "sft", chat_scores("sft"), {"MMLU": mmlu("sft"), "GSM8K": gsm8k("sft")}),
    ]
    (found[0].folder / "records" / "copa.parquet").unlink()
    (found[1].folder / "records" / "MMLU.parquet").write_bytes(b"PAR1 broken")
    text = (report(tmp_path, SPEC, found, "run") / "report.md").read_text()
    answers = section(text, "Answers")
    assert "- base, copa: 0123456789abcdef/records/copa.parquet is not there; its answers are left out." in answers
    assert "- sft, MMLU: 0123456789abcdef/records/MMLU.parquet cannot be read (" in answers
    assert "40 answers, of 40 that were given." in answers and "report.html has them as a table." in answers


def test_evaluations_that_belong_to_no_run_have_a_page_of_their_own(tmp_path: Path) -> None:
    names = {"sft": "models:/demo@champion", "rl": "http://127.0.0.1:8000/v1"}
    found = [
        read_evaluation(name, evaluation(tmp_path, model, chat_scores(model), {"MMLU": mmlu(model)}).folder)
        for model, name in names.items()
    ]
    page = write_evaluation_page(tmp_path / "page", "champion against server", found)
    text = (page.parent / "report.md").read_text()
    assert "| MMLU | 40 | 50.0 % | 50.0 % | +0.0 |" in section(text, f"From {names['sft']} to {names['rl']}")
    assert "80 answers, of 80 that were given." in page.read_text()
    assert json.loads((page.parent / "report.json").read_text())["evaluations"][names["rl"]] == chat_scores("rl")
