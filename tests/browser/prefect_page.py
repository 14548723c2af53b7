"""Prefect's UI, as far as a new user needs it: deployments, the form of a run, and the page of a run.

These are the pages of Prefect 3.8 at `/`: its V1 UI, the one that asks no other host.
"""

import json
import re
import time
from typing import Any

from playwright.sync_api import Locator, Page, expect

STATE = ".state-badge"
FIELD = "xpath=//div[contains(@class, 'schema-form-property')][./div[contains(@class, 'header')]//span[{}]]"
SCROLL_SECONDS = 0.5
SETTLING_SECONDS = 2.0  # the graph is a moving picture: nothing in the page says that it has come to rest


class PrefectPage:
    """One tab of a browser. `url` is the address of the server, without a slash at its end."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    @property
    def heading(self) -> Locator:
        """The line at the top that says what the page shows."""
        return self.page.get_by_role("banner").get_by_role("navigation")

    @property
    def state(self) -> Locator:
        """The state of the run whose page is open."""
        return self.page.locator(STATE).first

    def open(self) -> None:
        """Open the address that `nanochat up` prints."""
        self.page.goto(self.url)

    def list_deployments(self, search: str) -> list[str]:
        """Open the list of deployments, search it, and return the names that remain."""
        self.page.get_by_text("Deployments", exact=True).first.click()
        self.page.get_by_placeholder("Search deployments").fill(search)
        rows = self.page.get_by_role("row").filter(has=self.page.get_by_role("link"))
        expect(rows.filter(has_text=search).first).to_be_visible()
        expect(rows.filter(has_not_text=search)).to_have_count(0)
        return [row.get_by_role("link").first.inner_text() for row in rows.all()]

    def open_form(self, deployment: str) -> None:
        """Open the form of a custom run of this deployment, from the list of deployments."""
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run", exact=True).click()
        expect(self.page.get_by_role("heading", name="Parameters")).to_be_visible()

    def paste_parameters(self, parameters: dict[str, Any]) -> None:
        """Replace all parameters by way of the form's JSON view."""
        menu = self.page.get_by_role("heading", name="Parameters").locator("xpath=following::button[1]")
        menu.click()
        self.page.get_by_text("Use JSON input", exact=True).last.click()
        self.page.locator("textarea").last.fill(json.dumps(parameters, indent=2))
        menu.click()
        self.page.get_by_text("Use form input", exact=True).last.click()

    def number(self, label: str) -> Locator:
        """Return the input for the one number whose label begins with `label`."""
        return self.page.locator(FIELD.format(f"starts-with(normalize-space(), '{label}')")).last.locator("input")

    def submit(self) -> str:
        """Start the run, go to its page, and return its id."""
        with self.page.expect_response(re.compile("/create_flow_run$")) as answer:
            self.page.get_by_role("button", name="Submit", exact=True).click()
        run_id = str(answer.value.json()["id"])
        self.page.locator(f"a[href$='/runs/flow-run/{run_id}']").first.click()
        return run_id

    def wait_for_state(self, state: str, *, seconds: float) -> None:
        """Return when the page of a run says that it is in this state; nobody reloads it."""
        expect(self.state).to_have_text(state, timeout=seconds * 1000)

    def press(self, button: str, *, confirm: str) -> None:
        """Press a button at the top of a run's page, and the one that says `confirm` in the dialog that asks."""
        self.page.get_by_role("button", name=button, exact=True).click()
        self.page.get_by_role("dialog").get_by_role("button", name=confirm, exact=True).click()

    def show(self, tab: str, text: str, *, seconds: float = 60) -> Locator:
        """Open a tab of a run's page, wait until it has `text`, and return the tab's panel.

        The tabs are scrolled to the top of the window again and again: the page draws only what is in view, and grows.
        """
        tabs, panel = self.page.get_by_role("tablist"), self.page.get_by_role("tabpanel")
        tabs.get_by_text(tab, exact=True).click()
        deadline = time.monotonic() + seconds
        while not panel.filter(has_text=text).is_visible() and time.monotonic() < deadline:
            tabs.evaluate("element => element.scrollIntoView({block: 'start'})")
            self.page.wait_for_timeout(1000 * SCROLL_SECONDS)
        expect(panel).to_contain_text(text)
        tabs.evaluate("element => element.scrollIntoView({block: 'start'})")
        return panel

    def show_newest_logs(self, text: str, *, seconds: float) -> None:
        """Open the tab Logs, wait until it has `text`, and bring its end into view."""
        panel = self.show("Logs", text, seconds=seconds)
        panel.evaluate("element => element.scrollIntoView({block: 'end'})")

    def show_graph(self) -> None:
        """Bring the top of a run's page into view, with the graph of its tasks."""
        self.page.get_by_role("tablist").get_by_text("Logs", exact=True).click()
        expect(self.page.get_by_text(re.compile(r"\d+ Task runs?")).first).to_be_visible()
        expect(self.page.locator("canvas").first).to_be_visible()
        self.heading.scroll_into_view_if_needed()
        self.page.wait_for_timeout(1000 * SETTLING_SECONDS)

    def artifact(self, key: str, *, seconds: float = 60) -> Locator:
        """Return the card of an artifact on the tab Artifacts."""
        return self.show("Artifacts", key, seconds=seconds).get_by_role("link").filter(has_text=key).first

    def task_states(self) -> list[tuple[str, str]]:
        """Return (task, state) of the tab Task Runs, the newest first."""
        panel = self.show("Task Runs", "download")
        names, states = panel.get_by_role("link").all_inner_texts(), panel.locator(STATE).all_inner_texts()
        return list(zip(names, states, strict=True))

    def show_picture(self) -> int:
        """Bring the first picture of a page of text into view and return its width in pixels; 0: it is broken."""
        picture = self.page.locator("article img").first
        picture.evaluate("element => element.scrollIntoView({block: 'end'})")
        return int(picture.evaluate("element => element.decode().then(() => element.naturalWidth, () => 0)"))
