"""The system's chromium: where it is, how it is started, what it is not allowed to ask, and what it saw."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 800
PATIENCE_MILLISECONDS = 60_000.0  # for anything that a page shall show at once: the machine may be busy
COLORS = 128


def find_chromium() -> str | None:
    """Return the path of a browser that Playwright can drive, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def new_tab(executable: str, *, allowed: set[str]) -> Iterator[Page]:
    """Yield a page of a browser that has never been here. A request to a host outside `allowed` fails and raises."""
    with new_browser(executable) as browser, visitor(browser, allowed=allowed) as page:
        yield page


@contextmanager
def new_browser(executable: str) -> Iterator[Browser]:
    """Yield a browser for several visitors."""
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable, args=sandbox)
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        yield browser
        browser.close()


@contextmanager
def visitor(browser: Browser, *, allowed: set[str], **options: Any) -> Iterator[Page]:
    """Yield a page of somebody who has never been here; `options` are those of Playwright's contexts.

    A request to a host outside `allowed` fails and raises.
    """
    strangers: set[str] = set()
    context = browser.new_context(**{"viewport": {"width": WIDTH, "height": HEIGHT}} | options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    context.on("request", lambda request: strangers.update(hosts(request.url) - allowed))
    yield page
    context.close()
    assert not strangers, f"the pages asked {sorted(strangers)}: nothing of a run may leave the machine"


def hosts(url: str) -> set[str]:
    """Return the host of an address that goes over the network.

    >>> hosts("http://127.0.0.1:4200/api"), hosts("data:image/png;base64,AA")
    ({'127.0.0.1'}, set())
    """
    parts = urlsplit(url)
    return {parts.hostname or ""} if parts.scheme in ("http", "https", "ws", "wss") else set()


class Screenshots:
    """Writes what a page shows as small PNGs, numbered in the order in which they were taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, page: Page, name: str) -> Path:
        """Write 01-name.png and return its path."""
        self._count += 1
        return take_picture(page, self.folder / f"{self._count:02d}-{name}.png")


def take_picture(page: Page, path: Path, *, colors: int = COLORS) -> Path:
    """Write what a page shows as a small PNG of so many colours and return its path."""
    page.screenshot(path=path, animations="disabled")
    with Image.open(path) as image:
        image.convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
    return path
