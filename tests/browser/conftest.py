"""A browser, the server with its fake engine, and a page: one of each for a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import ChatServer, chat_server
from tests.browser.chromium import NAMES, find_chromium, new_browser, visitor

OWN_HOST = {"127.0.0.1"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    with new_browser(executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def module_server(browser: Browser) -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture(scope="module")
def opened_page(browser: Browser, module_server: ChatServer) -> Iterator[ChatPage]:
    with visitor(browser, allowed=OWN_HOST) as page:
        chat = ChatPage(page, module_server.url).open()
        yield chat
        assert chat.problems == []


@pytest.fixture
def server(module_server: ChatServer) -> Iterator[ChatServer]:
    """The server, with nothing running before and after."""
    module_server.tell()
    yield module_server
    module_server.engine.clock.run()


@pytest.fixture
def chat(opened_page: ChatPage, server: ChatServer) -> ChatPage:
    """The module's page with an empty chat. What it kept from earlier tests stays in its list."""
    opened_page.page.keyboard.press("Control+Shift+O")
    opened_page.page.locator("#welcome").wait_for()
    opened_page.show_tokens(False)
    return opened_page


@pytest.fixture
def new_chat(browser: Browser, server: ChatServer) -> Iterator[ChatPage]:
    """A page of somebody who has never been here."""
    with visitor(browser, allowed=OWN_HOST) as page:
        chat = ChatPage(page, server.url).open()
        yield chat
        assert chat.problems == []
