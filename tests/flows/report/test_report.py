"""The report of made-up stage folders: every number is one that a stage wrote, and what did not run has no column."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.report.content import code_size, cost, flat_scores, read_stage, report, wall_seconds
from flows.report.layout import duration, markdown_cell, markdown_quote, shown
from flows.report.plots import Plot, svg
from flows.report.tokenizer import comparison_note
from flows.stage import StageOutcome
from nanochat_core.errors import ArtifactError
from nanochat_core.recipes import recipe, resolve
from nanochat_core.specs import LaunchSpec
from tasks_eval.records import Record, write_records

BPB = [{"step": step, "time": 100.0 + step, "attempt": 1, "val/bpb": 3.7 - step / 100} for step in (0, 100)]
LOSS = [{"step": step, "time": 100.0 + step, "attempt": 1, "train/loss": 4.0, "val/loss": 4.0} for step in (0, 10)]
REWARD = [{"step": step, "time": 100.0 + step, "attempt": 1, "rl/reward": 0.5} for step in (1, 2)]
CURVES = {"pretrain": BPB, "midtrain": LOSS, "sft": LOSS, "rl": REWARD}
METRICS: dict[str, dict[str, Any]] = {
    "download": {"train_shards": 3, "train_documents": 8123},
    "tokenizer": {"vocab_size": 2048, "bytes_per_token": 2.91},
    "pretrain": {"val_bpb_first": 3.7, "val_bpb_last": 2.7, "bigram_bpb": 2.9, "steps": 100},
    "midtrain": {"val_loss_last": 0.9, "steps": 10},
    "sft": {"val_loss_last": 0.3, "steps": 10},
    "rl": {"reward_before": 0.6, "reward_after": 0.7, "reward_gain_low": 0.05, "steps": 2},
}
ACCURACY = {"Arithmetic": 0.9875, "Spelling": 0.6125}


def outcome_of(base: Path, stage: str, *, is_cached: bool = False, **result: Any) -> StageOutcome:
    """Write a stage's folder as the stage would, and return its outcome."""
    folder = base / "artifacts" / stage / "0123456789abcdef"
    folder.mkdir(parents=True)
    content = {"metrics": METRICS.get(stage, {}), "outputs": [], "details": {}} | result
    (folder / "result.json").write_text(json.dumps(content))
    lines = "".join(json.dumps(line) + "\n" for line in CURVES.get(stage, []))
    (folder / "metrics.jsonl").write_text(lines)
    return StageOutcome(
        stage=stage, folder=folder, digest="d" * 64, is_cached=is_cached, seconds=12.5, git_commit="3fa2c1b"
    )


def base_evaluation(base: Path, text: str = "Paris.") -> StageOutcome:
    details = {
        "tasks": {},
        "bpb": {"validation": 2.71},
        "samples": [{"prompt": "The capital of France is", "text": text}],
    }
    return outcome_of(base, "evaluate_base", metrics={"bpb_validation": 2.71}, details=details)


def chat_evaluation(base: Path, model: str) -> StageOutcome:
    tasks = {name: {"accuracy": value, "stderr": 0.0125, "n": 500} for name, value in ACCURACY.items()}
    metrics = {f"{number}/{name}": value for name, row in tasks.items() for number, value in row.items()}
    details = {"tasks": tasks, "chatcore": {"value": 0.8, "stderr": 0.01, "tasks": list(tasks)}}
    outcome = outcome_of(base, f"evaluate_{model}", metrics=metrics | {"chatcore": 0.8}, details=details)
    for name in tasks:
        record = Record(7, name, "What is 12*7?", "ab", "84", True, "84", completion="«12*7»‹84›84")
        (outcome.folder / "records").mkdir(exist_ok=True)
        write_records(outcome.folder / "records" / f"{name}.parquet", [record])
    return outcome


def outcomes(base: Path, *models: str) -> list[StageOutcome]:
    stages = {"mid": "midtrain", "sft": "sft", "rl": "rl"}
    trained = [outcome_of(base, stages[model]) for model in models]
    shared = [outcome_of(base, stage) for stage in ("download", "tokenizer", "pretrain")]
    return [*shared, *trained, base_evaluation(base), *(chat_evaluation(base, model) for model in models)]


@pytest.fixture
def full_report(tmp_path: Path) -> Path:
    return report(tmp_path, resolve(recipe("demo")), outcomes(tmp_path, "mid", "sft", "rl"), "demo-1")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def test_report_json_has_the_numbers_that_show_learning(full_report: Path) -> None:
    content = read(full_report)
    assert content["pretrain"] | {"val_bpb_first": 3.7, "val_bpb_last": 2.7, "bigram_bpb": 2.9} == content["pretrain"]
    assert (content["sft"]["arithmetic_accuracy"], content["sft"]["arithmetic_n"]) == (0.9875, 500)
    assert content["sft"]["spelling_accuracy"] == 0.6125
    assert content["rl"] | {"reward_before": 0.6, "reward_after": 0.7, "reward_gain_low": 0.05} == content["rl"]
    assert content["tokenizer"]["bytes_per_token"] == 2.91


def test_bits_per_byte_by_position_are_a_table(tmp_path: Path) -> None:
    details = {"bpb_by_position": {"0": 1.5, "256": 1.25, "512": 1.0}}
    folder = report(
        tmp_path,
        resolve(recipe("demo")),
        [outcome_of(tmp_path, "pretrain", details=details), base_evaluation(tmp_path)],
        "run",
    )
    text = (folder / "report.md").read_text()
    rows = "| positions | bits per byte |\n|---|---|\n| 0 to 255 | 1.5 |\n| 256 to 511 | 1.25 |\n| 512 to end | 1 |"
    assert rows in text
    assert "by position" not in (report(tmp_path, resolve(recipe("demo")), [], "none") / "report.md").read_text()


COMPARISON = {
    "vocabularies": {
        "own": {"title": "ours", "size": 2048},
        "gpt2": {"title": "GPT-2", "size": 50257},
        "cl100k_base": {"title": "GPT-4", "size": 100277},
    },
    "from_table": ["gpt2", "cl100k_base"],
    "texts": [
        {"name": "code", "bytes": 3000, "tokens": {"own": 1000, "gpt2": 1200, "cl100k_base": 800}},
        {"name": "held_out", "bytes": 9876543, "tokens": {"own": 3000000}},
    ],
}


def test_the_vocabulary_is_compared_with_others_in_a_table_and_a_picture(tmp_path: Path) -> None:
    metrics = METRICS["tokenizer"] | {"bytes_per_token_code": 3.0}
    tokenizer = outcome_of(tmp_path, "tokenizer", metrics=metrics, details={"comparison": COMPARISON})
    folder = report(tmp_path, resolve(recipe("demo")), [tokenizer, base_evaluation(tmp_path)], "run")
    text = (folder / "report.md").read_text()
    header = "| text | bytes | ours (2,048) | GPT-2 (50,257) | GPT-4 (100,277) | ours to GPT-2 | ours to GPT-4 |"
    assert (
        f"\n\n{header}\n|---|---|---|---|---|---|---|\n| code | 3,000 | 3.00 | 2.50 | 3.75 | +20.0 % | -20.0 % |\n"
        in text
    )
    assert "| held out | 9,876,543 | 3.29 | – | – | – | – |\n\n![" in text
    assert "GPT-2 and GPT-4 are from a table that comes with the code" in text
    assert "bytes per token code" not in text and "| bytes per token | 2.91 |" in text
    picture = (folder / "plots" / "tokenizer_comparison.svg").read_text()
    assert all(word in picture for word in ("GPT-2", "GPT-4", "held out"))
    assert "<figcaption>Tokenizer: bytes per token</figcaption><svg" in (folder / "report.html").read_text()
    assert read(folder)["tokenizer"]["comparison"] == COMPARISON


def test_measured_vocabularies_need_no_excuse() -> None:
    assert "table" not in comparison_note(COMPARISON | {"from_table": []})


def test_the_newest_report_is_found_as_latest(tmp_path: Path) -> None:
    spec = resolve(recipe("demo"))
    finished = outcomes(tmp_path, "sft")
    for name in ("first", "second", "first"):
        report(tmp_path, spec, finished, name)
    assert read(tmp_path / "reports" / "latest")["run"]["name"] == "first"
    assert read(tmp_path / "reports" / "second")["run"]["name"] == "second"


def test_a_model_that_was_not_trained_has_no_column_and_no_section(tmp_path: Path) -> None:
    folder = report(tmp_path, resolve(recipe("demo")), outcomes(tmp_path, "sft"), "short")
    text = (folder / "report.md").read_text()
    assert "| metric | Base | SFT |\n" in text
    assert "rl" not in read(folder)
    assert "midtrain" not in read(folder)
    assert "## RL" not in text


def test_published_scores_stand_beside_our_own(tmp_path: Path) -> None:
    spec = resolve(recipe("classic_d20"))
    folder = report(tmp_path, spec, outcomes(tmp_path, "mid", "sft"), "d20")
    text = (folder / "report.md").read_text()
    assert "| metric | Base | Base, published | Mid | Mid, published | SFT | SFT, published |" in text
    assert "| Validation bpb | 2.7100 | 0.81 | – | – | – | – |" in text
    assert "| ARC-Easy | – | – | – | 0.3561 | – | 0.3876 |" in text


def test_markdown_and_html_show_the_same_numbers(full_report: Path) -> None:
    pages = [(full_report / name).read_text() for name in ("report.md", "report.html")]
    for number in ("0.9875 ± 0.0125 (500)", "8,123", "2.91", "«12*7»‹84›84", "1 min 40 s"):
        assert all(number in page for page in pages), number


class Addresses(HTMLParser):
    """Collects everything in a page that a browser would fetch, and the ids that it defines."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.plots = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.plots += tag == "svg"
        if tag in {"link", "img", "iframe", "object", "image"}:
            self.fetched.append(tag)
        self.fetched += [
            f"{tag} {name}" for name, value in attrs if name.endswith(("src", "href")) and value and value[0] != "#"
        ]


def test_the_page_asks_no_server_for_anything(full_report: Path) -> None:
    text = (full_report / "report.html").read_text()
    page = Addresses()
    page.feed(text)
    assert page.fetched == []
    assert page.plots == 5
    assert not re.search(r"@import|url\((?!#)", text)


def test_what_a_model_wrote_cannot_become_markup(tmp_path: Path) -> None:
    text = "<script>alert(1)</script>`| # **bold**\n\n# heading"
    finished = [outcome_of(tmp_path, "pretrain"), base_evaluation(tmp_path, text)]
    folder = report(tmp_path, resolve(recipe("demo")), finished, "hostile")
    assert "<script>" not in (folder / "report.html").read_text()
    assert "> `<script>alert(1)</script>'| # **bold** # heading`" in (folder / "report.md").read_text()


def test_every_plot_that_markdown_names_is_there(full_report: Path) -> None:
    names = re.findall(r"\]\((plots/[^)]+)\)", (full_report / "report.md").read_text())
    assert len(names) == 5
    assert all((full_report / name).read_text().startswith("<svg") for name in names)


def test_equal_plots_are_equal_text_and_take_their_ink_from_the_page() -> None:
    plot = Plot("loss", "Loss", "nats", {"a": [(0, 2.0), (10, 1.0)]}, level=("bigram table", 1.5))
    assert svg(plot) == svg(plot)
    assert "currentColor" in svg(plot)
    assert "bigram table" in svg(plot)


def test_a_stage_without_a_result_is_named(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, "pretrain")
    (outcome.folder / "result.json").unlink()
    with pytest.raises(ArtifactError, match=r"pretrain/0123456789abcdef/result\.json"):
        read_stage(outcome)


def test_a_cached_stage_took_what_its_attempts_took(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, "sft", is_cached=True)
    lines = [{"step": 1, "time": 10.0, "attempt": 1}, {"step": 2, "time": 15.0, "attempt": 1}]
    lines += [{"step": 3, "time": 500.0, "attempt": 2}, {"step": 4, "time": 503.0, "attempt": 2}]
    (outcome.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert wall_seconds(read_stage(outcome)) == 8.0


def test_a_resumed_stage_took_what_all_its_attempts_took(tmp_path: Path) -> None:
    files = read_stage(outcome_of(tmp_path, "pretrain"))  # its metrics span 100 s, the last attempt took 12.5 s
    assert wall_seconds(files) == 100.0


def test_a_cached_stage_names_the_commit_that_made_it(tmp_path: Path) -> None:
    finished = [outcome_of(tmp_path, "download"), outcome_of(tmp_path, "pretrain", is_cached=True)]
    text = (report(tmp_path, resolve(recipe("demo")), finished, "run") / "report.md").read_text()
    assert "| pretrain | 1 min 40 s | cached, by 3fa2c1b |" in text
    assert "| download | 12 s | ran |" in text


def test_a_gpu_hour_is_counted_once_for_each_gpu_that_was_used() -> None:
    assert cost(LaunchSpec(gpu_hour_dollars=3.0), 8, 3600)["dollars"] == 24.0
    assert cost(LaunchSpec(gpu_hour_dollars=3.0, nproc_per_node=2), 8, 1800)["dollars"] == 3.0
    assert cost(LaunchSpec(device="cpu"), 8, 3600)["gpu_hours"] == 0
    assert cost(LaunchSpec(), 0, 3600)["gpu_hours"] == 0


def test_score_names_become_plain_keys(tmp_path: Path) -> None:
    metrics = {"accuracy/ARC-Easy": 0.25, "n/ARC-Easy": 100, "core": 0.2}
    evaluation = read_stage(outcome_of(tmp_path, "evaluate_sft", metrics=metrics))
    assert flat_scores(evaluation) == {"arc_easy_accuracy": 0.25, "arc_easy_n": 100, "core": 0.2}


def test_numbers_and_times_are_written_as_people_read_them() -> None:
    assert [shown(value) for value in (1_310_720, 0.123456, 5230.7, 4.1e19, None, "x")] == [
        "1,310,720",
        "0.1235",
        "5,231",
        "4.1e+19",
        "–",
        "x",
    ]
    assert [duration(value) for value in (14.2, 75, 13_860, None)] == ["14 s", "1 min 15 s", "3 h 51 min", "–"]


def test_markdown_text_stays_in_its_cell() -> None:
    assert markdown_cell("a|b\nc") == r"a\|b c"
    assert markdown_quote("a `b`\n\n# c") == "`a 'b' # c`"


def test_code_size_counts_this_code() -> None:
    assert code_size()["flows"]["lines"] > 300
