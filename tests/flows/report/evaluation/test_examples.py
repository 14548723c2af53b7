"""What is packed into the page: every answer where they fit, the first questions of each task where they do not."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows.report.content import report
from flows.report.evaluation.answers import Evaluation, read_evaluation
from flows.report.evaluation.examples import Examples, pack_examples, sorted_answers
from flows.report.evaluation.page import PAGE
from nanochat_core.recipes import recipe, resolve
from tasks_eval.records import SCHEMA, Record
from tests.flows.report.evaluation.made_up import HOSTILE, chat_scores, evaluation, evaluations, gsm8k, mmlu

PLENTY = 10**9
SPEC = resolve(recipe("demo"))


def read(base: Path, *models: str) -> list[Evaluation]:
    return [
        read_evaluation(
            model, evaluation(base, model, chat_scores(model), {"MMLU": mmlu(model), "GSM8K": gsm8k(model)}).folder
        )
        for model in models
    ]


def unpacked(data: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(data)))
    return content


def packed(found: list[Evaluation], characters: int = PLENTY) -> Examples:
    table = pack_examples(sorted_answers(found), characters=characters, page="all.html")
    assert table is not None
    return table


def test_each_answer_is_there_and_each_question_once(tmp_path: Path) -> None:
    table = packed(read(tmp_path, "mid", "sft"))
    content = unpacked(table.data)
    assert (table.shown, table.total, table.page) == (160, 160, "")
    assert len(content["rows"]) == 160 and len(content["questions"]) == 50
    assert (content["models"], content["tasks"]) == (["Mid", "SFT"], ["MMLU", "GSM8K"])
    assert content["questions"][0] == [f"Which organ number 0? {HOSTILE}", "A", "B"]
    mid, sft = [row for row in content["rows"] if row[:1] == [0] and row[2] == 15]
    assert mid == [0, 0, 15, 0, "world_religions", 15, 0, "0", "1", "", [-0.25, -1.5], [], ""]
    assert sft == [0, 1, 15, 0, "world_religions", 15, 1, "1", "1", "", [-2.0, -0.1], [], ""]


def test_equal_answers_are_equal_bytes(tmp_path: Path) -> None:
    found = read(tmp_path, "rl")
    assert packed(found).data == packed(found).data


def test_of_too_many_answers_the_first_questions_of_each_task_are_kept(tmp_path: Path) -> None:
    table = packed(read(tmp_path, "sft"), characters=6000)
    rows = unpacked(table.data)["rows"]
    kept = {task: {row[2] for row in rows if row[0] == task} for task in (0, 1)}
    assert 1 < len(kept[0]) < 10 and kept[0] == kept[1] == set(range(len(kept[0])))
    assert len([row for row in rows if row[0] == 1]) == 4 * len(kept[1])
    assert (table.shown, table.total, table.page) == (len(rows), 80, "all.html")
    assert packed(read(tmp_path / "again", "sft"), characters=1).shown == 5


def test_long_texts_are_cut_and_say_so() -> None:
    prompt, completion = "shots " * 1000 + "the question", "word " * 1000
    record = Record(0, "GSM8K", prompt, "ab", "1", False, None, completion=completion)
    row = {name: getattr(record, name) for name in SCHEMA.names}
    content = unpacked(packed([Evaluation("sft", {"tasks": {}}, {"GSM8K": [row]})]).data)
    assert content["questions"][0][0].startswith("(4,012 characters before) …")
    assert content["questions"][0][0].endswith("the question")
    assert content["rows"][0][9].endswith("… (1,000 more characters)")


def test_a_likelihood_of_nothing_is_valid_json() -> None:
    record = Record(0, "copa", "p", "ab", "0", False, "1", options=("a", "b"), logprobs=(float("-inf"), -1.0))
    row = {name: getattr(record, name) for name in SCHEMA.names}
    table = packed([Evaluation("base", {"tasks": {}}, {"copa": [row]})])
    assert b"Infinity" not in gzip.decompress(base64.b64decode(table.data))
    assert unpacked(table.data)["rows"][0][10] == [None, -1.0]


def test_no_answer_becomes_markup(tmp_path: Path) -> None:
    page = (report(tmp_path, SPEC, evaluations(tmp_path), "run") / "report.html").read_text()
    assert "onerror" in page  # among the samples, escaped
    assert not re.search(r"<[^>]*onerror", page) and "<b>" not in page


def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    page = (report(tmp_path, SPEC, evaluations(tmp_path), "run") / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none'; ") and "script-src 'sha256-" in policy[1]
    assert "script-src" not in (report(tmp_path, SPEC, [], "empty") / "report.html").read_text()


def test_what_does_not_fit_the_report_is_in_a_page_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluations(tmp_path)
    monkeypatch.setattr("flows.report.evaluation.page.REPORT_CHARACTERS", 20_000)
    folder = report(tmp_path, SPEC, found, "run")
    page = (folder / "report.html").read_text()
    assert 'href="examples.html"' in page and "Of each task the first questions are shown." in page
    every = (folder / PAGE).read_text()
    assert "243 answers, of 243 that were given." in every and 'href="' not in every
    monkeypatch.undo()
    report(tmp_path, SPEC, found, "run")
    assert not (folder / PAGE).exists()
