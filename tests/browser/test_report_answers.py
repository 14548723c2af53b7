"""The table of answers in report.html, opened as a file in a real browser: filters, details, and nothing but text."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from flows.report.content import report
from nanochat_core.recipes import recipe, resolve
from tests.browser.chromium import visitor
from tests.flows.report.evaluation.made_up import HOSTILE, evaluations

ALL = 3 + 3 * (40 + 40)  # copa of base; MMLU and four answers to ten questions of GSM8K, of three models


class AnswersPage:
    """A report's table of answers. `problems` are what the browser complained about."""

    def __init__(self, page: Page) -> None:
        self.page, self.problems = page, []
        self.table = page.locator("#examples")
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)

    @property
    def rows(self) -> Locator:
        return self.table.locator("tr.right, tr.wrong")

    def filter(self, name: str) -> Locator:
        return self.table.get_by_role("combobox", name=name.capitalize(), exact=True, include_hidden=True)

    def choose(self, **filters: str) -> None:
        for name, value in filters.items():
            self.filter(name).select_option(value)

    def search(self, text: str) -> None:
        self.table.get_by_role("searchbox").fill(text)

    def shows(self, answers: int, right: int | None = None) -> None:
        """Wait until so many answers are found, of which so many are right."""
        rest = r"\d+ right" if right is None else f"{right} right"
        count = re.compile(rf"^{answers} of {ALL} answers, {rest}")
        expect(self.table.get_by_role("status")).to_have_text(count)


@pytest.fixture(scope="module")
def folder(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    return report(base, resolve(recipe("demo")), evaluations(base), "run")


@pytest.fixture
def answers(browser: Browser, folder: Path) -> Iterator[AnswersPage]:
    with visitor(browser, allowed=set()) as page:
        found = AnswersPage(page)
        page.goto((folder / "report.html").as_uri())
        yield found
        assert found.problems == []


def test_the_table_filters_by_task_model_part_verdict_and_text(answers: AnswersPage) -> None:
    answers.shows(ALL)
    expect(answers.rows).to_have_count(50)
    answers.choose(task="MMLU", model="SFT")
    answers.shows(40, right=20)
    answers.choose(part="world_religions", verdict="wrong")
    answers.shows(10, right=0)
    answers.search("organ NUMBER 39")
    answers.shows(1, right=0)
    expect(answers.rows.get_by_role("button")).to_have_text("MMLU 39")
    answers.search("")
    answers.choose(task="", model="", verdict="both")  # questions on which models differ, or answers of one model
    answers.shows(30 + 3 * 4 * 6)
    answers.choose(task="copa", verdict="")
    answers.shows(3, right=1)
    expect(answers.filter("part")).to_be_hidden()


@pytest.mark.slow
def test_a_row_opens_to_the_prompt_the_options_and_the_verdict(answers: AnswersPage) -> None:
    answers.choose(task="copa", verdict="wrong")
    answers.shows(2)
    row = answers.rows.first.get_by_role("button")
    row.press("Enter")
    details = answers.table.locator("tr.details")
    expect(details.locator("pre")).to_have_text("The man fell, 1 times, because")
    cells = details.locator("table tr").nth(1).locator("td")
    expect(cells).to_have_text(["he slipped.", "-5.0000", "4", "-1.2500", "expected"])
    expect(details.locator("table tr").nth(2).locator("td").last).to_have_text("chosen")
    expect(details.locator("p")).to_have_text("read as it was late at night.; expected he slipped.; wrong")
    row.press("Enter")
    expect(details).to_have_count(0)


def test_what_a_model_wrote_is_shown_and_never_run(answers: AnswersPage) -> None:
    answers.choose(task="GSM8K", model="RL", verdict="wrong")
    answers.rows.first.get_by_role("button").click()
    details = answers.table.locator("tr.details")
    expect(details).to_contain_text(f"rl thinks: {HOSTILE} #### x")
    expect(details).to_contain_text("read as nothing; expected 0; wrong: no number after ####")
    assert answers.table.locator("img, b").count() == 0
    expect(answers.page).to_have_title("nanochat: run")


@pytest.mark.slow
def test_pages_of_rows_are_turned(answers: AnswersPage) -> None:
    expect(answers.table.get_by_role("button", name="Previous")).to_be_disabled()
    for _ in range(4):
        answers.table.get_by_role("button", name="Next").click()
    expect(answers.table.get_by_role("status")).to_contain_text("rows 201 to 243")
    expect(answers.rows).to_have_count(43)
    expect(answers.table.get_by_role("button", name="Next")).to_be_disabled()


@pytest.mark.slow
@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 800}}])
def test_axe_finds_no_barrier(browser: Browser, folder: Path, look: dict[str, Any]) -> None:
    with visitor(browser, allowed=set(), **look) as page:
        page.goto((folder / "report.html").as_uri())
        page.locator("#examples tr.right button").first.click()
        found = [each["id"] for each in Axe().run(page).response["violations"]]
        width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert (found, width) == ([], 0)
