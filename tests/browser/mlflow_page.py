"""MLflow's UI, as far as a new user needs it: the runs of the experiment, two of them compared, their curves."""

import re
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

Table = dict[str, list[str]]  # a parameter or metric -> its value in each run, from left to right


class MlflowPage:
    """One tab of a browser. `url` is the address of the server, without a slash at its end."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def open_runs(self, experiment: str, *, search: str = "", view: str = "TABLE") -> None:
        """Open the runs of an experiment as those of training, without the assistant that covers a third of them."""
        query = f"workflowType=machine_learning&compareRunsMode={view}&searchFilter={quote(search)}"
        self.page.goto(f"{self.url}/#/experiments/{experiment}/runs?{query}")
        expect(self.page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
        assistant = self.page.get_by_placeholder("Ask a question...")
        expect(assistant).to_be_visible()  # it opens by itself, once for each browser
        self.page.get_by_role("button", name="Close", exact=True).first.click()
        expect(assistant).to_be_hidden()

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

    def table(self, part: str) -> Table:
        """Return what the comparison shows below this heading, after bringing it to the top of the page."""
        heading = self.page.get_by_role("button", name=part, exact=True)
        heading.evaluate("element => element.scrollIntoView({block: 'start'})")
        rows = heading.locator("xpath=following::table[1]").get_by_role("row")
        expect(rows.first).to_be_visible()
        return {
            row.get_by_role("rowheader").first.inner_text(): row.get_by_role("cell").all_inner_texts()
            for row in rows.all()
        }
