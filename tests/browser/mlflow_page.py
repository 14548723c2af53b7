"""MLflow's UI, as far as a new user needs it: the runs of the experiment, two of them compared, their curves."""

import re
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

ROWS, ROW_PIXELS = 500, 45  # of the table of metrics
DRAWING_MILLISECONDS = 50


class MlflowPage:
    """One tab of a browser. `url` is the address of the server, without a slash at its end."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def open_runs(self, experiment: str, *, search: str = "", view: str = "TABLE") -> None:
        """Open the runs of an experiment as those of training."""
        query = f"workflowType=machine_learning&compareRunsMode={view}&searchFilter={quote(search)}"
        self.page.goto(f"{self.url}/#/experiments/{experiment}/runs?{query}")
        expect(self.page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()

    def close_assistant(self) -> None:
        """Close what covers a quarter of the first page that a browser opens."""
        assistant = self.page.get_by_placeholder("Ask a question...")
        expect(assistant).to_be_visible()
        self.page.get_by_role("button", name="Close", exact=True).first.click()
        expect(assistant).to_be_hidden()

    def choose_columns(self, *names: str, instead_of: tuple[str, ...]) -> None:
        """Show these columns in the table of runs, each as wide as it needs to be."""
        self.page.get_by_role("button", name="Columns", exact=True).click()
        choice = self.page.get_by_role("dialog")
        for name in (*instead_of, *names):
            choice.get_by_placeholder("Search columns").fill(name)
            choice.locator("strong").get_by_text(name, exact=True).click()
        self.page.keyboard.press("Escape")
        expect(choice).to_be_hidden()
        for name in ("Run Name", *names):
            header = self.page.locator(".ag-header-cell").filter(has_text=name)
            header.locator(".ag-header-cell-resize").dblclick()  # as wide as what is in it

    def row(self, name: str) -> Locator:
        """Return the row of the newest run whose name begins with `name`."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("link", name=re.compile(f"^{name}"))).first

    def select(self, *names: str) -> None:
        for name in names:
            self.row(name).get_by_role("checkbox").first.check()

    def compare(self) -> None:
        """Compare the selected runs; only what differs is shown of their parameters and metrics."""
        self.page.get_by_role("button", name="Compare", exact=True).click()
        expect(self.page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
        for part in ("Parameters", "Metrics"):
            self.page.get_by_role("switch", name=f"{part} - Show diff only").click()
        self.page.get_by_role("button", name="Artifacts", exact=True).click()  # to fold them in

    def parameters(self) -> dict[str, list[str]]:
        """Return {parameter: its value in each run, from left to right}, after bringing the table into view."""
        heading = self.scroll_to("Parameters")
        rows = heading.locator("xpath=following::table[1]").get_by_role("row")
        expect(rows.first).to_be_visible()
        return {
            row.get_by_role("rowheader").inner_text(): row.get_by_role("cell").all_inner_texts() for row in rows.all()
        }

    def metric(self, name: str) -> list[str]:
        """Return the value of a metric in each run, from left to right, after bringing its row into view.

        The table is a window of 300 pixels on two grids, which hold only what is in view: one of names, and one of
        values, which the first follows one turn of the wheel behind.
        """
        self.scroll_to("Metrics")
        names, values = self.page.get_by_role("grid").first, self.page.get_by_role("grid").last
        link = names.get_by_role("link", name=name, exact=True)
        values.hover()
        window = values.bounding_box()
        assert window is not None
        for _ in range(ROWS):
            place = link.bounding_box() if link.count() else None
            if place is not None and place["y"] + place["height"] < window["y"] + window["height"]:
                break
            self.page.mouse.wheel(0, ROW_PIXELS)
            self.page.wait_for_timeout(DRAWING_MILLISECONDS)
        names.evaluate(
            "(element, pixels) => element.scrollTop = pixels", values.evaluate("element => element.scrollTop")
        )
        top = link.locator("xpath=ancestor::div[contains(@style, 'top:')][1]").evaluate("element => element.style.top")
        return values.locator(f"[style*='top: {top};']").all_inner_texts()

    def scroll_to(self, part: str) -> Locator:
        """Bring a part of the comparison to the top of the window and return its heading."""
        heading = self.page.get_by_role("button", name=part, exact=True)
        heading.evaluate("element => element.scrollIntoView({block: 'start'})")
        return heading

    def show_curves(self, metric: str, *names: str) -> set[str]:
        """Have the chart of one metric of these runs' stages fill the window; return the colors of its curves."""
        for name in names:
            self.row(name).get_by_role("gridcell").nth(1).get_by_role("button").first.click()
        self.page.get_by_placeholder("Search metric charts").fill(metric)
        title = self.page.get_by_role("heading", name=metric, exact=True)
        expect(title).to_have_count(1)
        title.locator("xpath=following::button[1]").click()
        curves = self.page.get_by_role("dialog").locator(".scatterlayer .trace path.js-line")
        expect(curves.first).to_be_visible()
        return set(curves.evaluate_all("elements => elements.map(element => element.style.stroke)"))
