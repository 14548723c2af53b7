"""The gallery on a page and in a terminal: side by side, and whatever a model says is text."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.report.content import report
from flows.report.evaluation.answers import read_evaluation
from flows.report.evaluation.gallery import SHOWN_CHARACTERS, terminal_gallery
from flows.report.evaluation.page import write_evaluation_page
from flows.stage import StageOutcome
from nanochat_core.errors import ArtifactError
from nanochat_core.recipes import recipe, resolve
from tests.flows.report.evaluation.made_up import HOSTILE, evaluation

STEERING = "a\x1b[2J\x00\u202eb\nc\td 👩\u200d🚀"  # clears a terminal, turns the text round; and what is only text
LONG = "very " * 1000
PROMPTS = ("Who are you? <script>alert(1)</script>", "Hello!", "`| *x*\n# y")


def gallery(*texts: str, prompts: tuple[str, ...] = PROMPTS) -> dict[str, Any]:
    """Return a gallery in which greedy answers end, and sampled ones, which have SAMPLED before them, are cut off."""
    rows = [
        {
            "prompt": prompt,
            "greedy": {"text": text, "finish_reason": "stop"},
            "sampled": {"text": f"SAMPLED {text}", "finish_reason": "length"},
        }
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return {"version": 1, "answers": rows}


GALLERIES = {
    "base": gallery("who are you?", LONG, ""),
    "sft": gallery(HOSTILE, STEERING, "`code` | <b>"),
    "rl": gallery("«12+7»‹19›19", prompts=PROMPTS[1:2]),
}


def outcomes(base: Path) -> list[StageOutcome]:
    found = []
    for model, content in GALLERIES.items():
        found.append(evaluation(base, model, {"tasks": {}}, {}))
        (found[-1].folder / "gallery.json").write_text(json.dumps(content))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    return report(base, resolve(recipe("demo")), outcomes(base), "run")


def test_the_page_has_a_row_a_question_and_a_column_a_model(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    part = page.partition("<h2>The same questions, stage by stage</h2>")[2].partition("</section>")[0]
    rows = part.split('<h3 class="asked">')[1:]
    assert [row.partition("</h3>")[0] for row in rows] == [html.escape(prompt, quote=False) for prompt in PROMPTS]
    assert [[model for model in ("Base", "SFT", "RL") if f"<dt>{model}</dt>" in row] for row in rows] == [
        ["Base", "SFT"],
        ["Base", "SFT", "RL"],
        ["Base", "SFT"],
    ]
    assert "<dd>«12+7»‹19›19<span" in rows[1] and 'class="drawn">SAMPLED «12+7»‹19›19<span' in rows[1]
    assert '<dd><span class="remark"> (says nothing)</span></dd>' in rows[2] and "(cut off)" in rows[2]


def test_what_a_model_said_stays_text_whatever_it_is(folder: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert r"a\x1b[2J\x00\u202eb" in text and "👩\u200d🚀" in text
        assert not {"\x1b", "\x00", "\u202e"} & set(text)
        assert f"the first {SHOWN_CHARACTERS:,} of 4,999 characters" in text and LONG not in text
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page and "<img" not in page and html.escape(HOSTILE, quote=False)[:20] in page


def test_markdown_lists_the_answers(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    part = text.partition("## The same questions, stage by stage\n")[2].partition("\n## ")[0]
    assert "- `Hello!`\n  - Base: `very very" in part
    assert (
        "\n  - RL: `«12+7»‹19›19`; drawn: `SAMPLED «12+7»‹19›19` (cut off)\n- `'| *x* # y`\n  - Base: `` (says" in part
    )


def test_the_json_has_all_of_it_uncut(folder: Path) -> None:
    assert json.loads((folder / "report.json").read_text())["gallery"] == GALLERIES


def test_the_page_of_two_evaluations_has_them_side_by_side(tmp_path: Path) -> None:
    found = [read_evaluation(f"models:/{number}", one.folder) for number, one in enumerate(outcomes(tmp_path))]
    page = write_evaluation_page(tmp_path / "page", "one against the other", found[:2])
    text = page.read_text()
    assert "<dt>models:/0</dt>" in text and "<dt>models:/1</dt>" in text


def test_a_terminal_is_steered_by_no_answer() -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(terminal_gallery({"sft": GALLERIES["sft"], "[red]rl": GALLERIES["rl"]}))
    text = captured.get()
    assert r"\x1b[2J\x00\u202eb" in text and "[red]rl" in text and "(not asked)" in text
    assert not {"\x1b", "\x00", "\u202e"} & set(text)


def test_an_evaluation_without_a_gallery_has_no_section_and_a_broken_one_is_named(tmp_path: Path) -> None:
    one = evaluation(tmp_path, "sft", {"tasks": {}}, {})
    page = write_evaluation_page(tmp_path / "page", "sft", [read_evaluation("sft", one.folder)])
    assert "The same questions" not in page.read_text()
    (one.folder / "gallery.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"gallery\.json"):
        read_evaluation("sft", one.folder)
