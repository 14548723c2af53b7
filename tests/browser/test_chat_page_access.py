"""The page for everybody: by keyboard, by screen reader, in the dark, on a phone, without motion."""

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import ChatServer
from tests.browser.chromium import visitor
from tests.browser.conftest import OWN_HOST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FOCUSED = """(() => {
    const node = document.activeElement;
    return node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent ?? node.textContent.trim();
})()"""
MOVING = """[...document.querySelectorAll("*")]
    .filter((node) => parseFloat(getComputedStyle(node).transitionDuration) > 0).map((node) => node.className)"""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light"} | PHONE,
    "dark phone": {"color_scheme": "dark"} | PHONE,
}
RICH = """# Heading

Text with `code`, **bold**, a [link](https://example.org) and a list:

1. one
2. two

> a quotation

| a | b |
|---|--:|
| x | 1 |

```python
@decorator
def f(x: int = 1) -> str:  # a comment
    \"\"\"A docstring.\"\"\"
    return f"{x}" if True else None
```
"""
SETTLED = "() => Promise.all(document.getAnimations().filter((a) => a instanceof CSSTransition).map((a) => a.finished))"
GRAVE = ("serious", "critical")
TARGET_PIXELS = 44
SMALL_TARGETS = """(least) => [...document.querySelectorAll("button, select, summary, [role=option], input")]
    .filter((node) => node.checkVisibility() && !node.disabled && node.tabIndex >= 0)
    .map((node) => [node.getAttribute("aria-label") ?? node.textContent.trim(), node.getBoundingClientRect()])
    .filter(([, rect]) => rect.width > 0 && (rect.height < least - 0.5 || rect.width < least - 0.5))
    .map(([name, rect]) => `${name}: ${Math.round(rect.width)}x${Math.round(rect.height)}`)"""


def barriers(page: Page) -> list[str]:
    """Return what axe finds that keeps somebody out."""
    page.evaluate(SETTLED)  # what fades has no contrast on its way
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in GRAVE]


def open_settings(chat: ChatPage) -> None:
    chat.button("Settings").click()


def focused(page: Page) -> str:
    """Return the name of what has the focus."""
    return str(page.evaluate(FOCUSED))


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_no_grave_barrier_anywhere(browser: Browser, server: ChatServer, look: str) -> None:
    with visitor(browser, allowed=OWN_HOST, **LOOKS[look]) as page:
        chat = ChatPage(page, server.url).open()
        problems = {"empty": barriers(page)}
        server.tell(
            [{"type": "text", "text": RICH}, {"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
        )
        chat.ask("Show all that you can")
        page.locator(".tool summary").click()
        problems["answer"] = barriers(page)
        chat.show_tokens(True)
        server.tell("Some tokens, some rare.")
        chat.ask("Tokens")
        page.locator(".token").nth(3).click()
        problems["tokens"] = barriers(page)
        server.engine.fail_after(2)
        chat.ask("Break")
        problems["error"] = barriers(page)
        chat.type("/help")
        chat.box.fill("/t")
        problems["commands"] = barriers(page)
        chat.box.fill("")
        page.locator(".question").last.hover()
        page.locator(".question").last.get_by_role("button", name="Edit and send again").click()
        problems["edit"] = barriers(page)
        page.keyboard.press("Escape")
        open_settings(chat)
        problems["settings"] = barriers(page)
        page.get_by_role("button", name="Close the settings").click()
        if "phone" in look:
            chat.button("Conversations").click()
            problems["drawer"] = barriers(page)
        chat.button("Tokenizer playground").click()
        page.locator(".piece").first.wait_for()
        problems["playground"] = barriers(page)
        assert {name: found for name, found in problems.items() if found} == {}


def test_axe_can_find_a_barrier(chat: ChatPage) -> None:
    chat.page.locator("#send").evaluate("(button) => { button.removeAttribute('aria-label'); button.title = ''; }")
    assert any(problem.startswith("button-name") for problem in barriers(chat.page))
    chat.page.locator("#send").evaluate("(button) => { button.setAttribute('aria-label', 'Send'); }")


def test_everything_can_be_done_by_keyboard(new_chat: ChatPage, server: ChatServer) -> None:
    page, keyboard = new_chat.page, new_chat.page.keyboard
    assert focused(page) == "Message"
    server.tell("An answer with `code`.")
    keyboard.type("Hello")
    keyboard.press("Enter")
    new_chat.wait_for_end()
    assert focused(page) == "Message"
    keyboard.press("Shift+Tab")  # back through the actions of the answer, the last first
    seen = [focused(page)]
    while "Edit and send again" not in seen and len(seen) < 12:
        keyboard.press("Shift+Tab")
        seen.append(focused(page))
    assert seen[:4] == ["How this answer was made", "Token probabilities", "Answer again", "Copy answer"]
    expect(page.get_by_role("button", name="Edit and send again")).to_be_visible()
    keyboard.press("Enter")
    assert focused(page) == "Edit the message"
    keyboard.press("Control+A")
    keyboard.type("Hello again")
    keyboard.press("Enter")
    expect(new_chat.questions).to_have_text("Hello again")
    new_chat.wait_for_end()
    assert focused(page) == "Message"
    page.evaluate("document.body.tabIndex = -1; document.body.focus();")  # as on a page that was just opened
    keyboard.press("Tab")
    assert focused(page) == "Skip to the message box"
    keyboard.press("Enter")
    assert focused(page) == "Message"
    page.get_by_role("button", name="Menu of Hello again").focus()
    keyboard.press("Enter")
    assert focused(page) == "Rename"
    keyboard.press("ArrowUp")
    assert focused(page) == "Delete"
    keyboard.press("Escape")
    assert focused(page) == "Menu of Hello again"
    keyboard.press("Control+Shift+O")
    expect(new_chat.questions).to_have_count(0)
    assert focused(page) == "Message"


def test_the_focus_is_always_seen(new_chat: ChatPage) -> None:
    new_chat.ask("Focus")
    for _ in range(14):
        new_chat.page.keyboard.press("Shift+Tab")
        style = new_chat.page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]; })()"
        )
        assert style == ["solid", "2px"], focused(new_chat.page)


def test_an_answer_is_read_out_by_sentences(chat: ChatPage, server: ChatServer) -> None:
    spoken = chat.page.locator("#announcer p")
    before = spoken.count()
    server.tell("It is **so**. And so\n\n```py\nx\n```\nMore", is_stopped=True)
    chat.begin("Talk.")
    server.advance(6)
    expect(chat.last_answer.locator(".answer-body")).to_have_text("It is")
    assert spoken.count() == before
    server.advance(12)
    expect(spoken).to_have_count(before + 1)
    expect(spoken.last).to_have_text("It is so.")
    server.engine.clock.run()
    chat.wait_for_end()
    said = " ".join(spoken.all_inner_texts()[before:])
    assert re.sub(r"\s+", " ", said) == "It is so. And so x More"
    assert chat.page.locator("#announcer").get_attribute("aria-live") == "polite"
    assert chat.page.locator("#scroller").get_attribute("aria-live") == "off"
    assert chat.page.locator("#scroller").get_attribute("role") == "log"


def test_dark_follows_the_system_until_somebody_chooses(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed=OWN_HOST, color_scheme="dark") as page:
        chat = ChatPage(page, server.url).open()

        def brightness() -> int:
            return int(page.evaluate("+getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0]"))

        assert brightness() < 60
        page.emulate_media(color_scheme="light")
        assert brightness() > 200
        for label, is_dark in (("Colours: light", False), ("Colours: dark", True)):
            page.get_by_role("button", name="Colours").click()
            expect(page.get_by_role("button", name=label)).to_be_visible()
            assert (brightness() < 60) == is_dark
        page.route("**/main.js", lambda route: route.abort())
        page.reload()
        assert brightness() < 60, "the first paint flashes"
        page.unroute("**/main.js")
        chat.reload()
        assert brightness() < 60
        page.get_by_role("button", name="Colours").click()
        assert brightness() > 200


def test_nothing_moves_for_who_wants_no_motion(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed=OWN_HOST, reduced_motion="reduce") as page:
        chat = ChatPage(page, server.url).open()
        server.tell("x", is_stopped=True)
        chat.begin("Wait.")
        expect(page.get_by_role("img", name="Writing")).to_be_visible()
        assert page.evaluate("document.getAnimations().length") == 0
        assert page.evaluate(MOVING) == []


def test_a_phone_has_room_and_large_targets(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed=OWN_HOST, **PHONE) as page:
        chat = ChatPage(page, server.url).open()
        assert page.evaluate(SMALL_TARGETS, TARGET_PIXELS) == []
        server.tell(RICH + "\n\n`" + "long" * 60 + "`")
        chat.ask("a" * 200)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("#scroller").evaluate("(node) => node.scrollWidth <= node.clientWidth")
        assert page.evaluate(SMALL_TARGETS, TARGET_PIXELS) == []
        size = page.evaluate("parseFloat(getComputedStyle(document.getElementById('prompt')).fontSize)")
        assert size >= 16, "iOS zooms into smaller boxes"
        chat.button("Conversations").tap()
        expect(page.get_by_role("navigation", name="Conversations")).to_be_visible()
        assert page.evaluate(SMALL_TARGETS, TARGET_PIXELS) == []
        assert page.locator("#stage").evaluate("(node) => node.inert")
        page.keyboard.press("Escape")
        expect(page.get_by_role("navigation", name="Conversations")).to_be_hidden()
        chat.button("Settings").tap()
        expect(page.get_by_label("System prompt")).to_be_visible()
        page.touchscreen.tap(4, 400)  # beside the panel
        expect(page.get_by_label("System prompt")).to_be_hidden()


def test_the_box_stays_above_a_phone_s_keyboard(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed=OWN_HOST, **PHONE) as page:
        chat = ChatPage(page, server.url).open()
        chat.ask("Hello")
        page.evaluate(
            """() => { // as iOS does it: the page keeps its height, what is seen of it shrinks
                Object.defineProperty(visualViewport, "height", { value: 480 });
                visualViewport.dispatchEvent(new Event("resize"));
            }"""
        )
        rect = page.locator("#composer").bounding_box()
        assert rect and rect["y"] + rect["height"] <= 480
        page.set_viewport_size({"width": 390, "height": 500})  # as Android does it
        page.evaluate("() => { delete visualViewport.height; visualViewport.dispatchEvent(new Event('resize')); }")
        rect = page.locator("#composer").bounding_box()
        assert rect and rect["y"] + rect["height"] <= 500


def test_a_token_can_be_tapped(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed=OWN_HOST, **PHONE) as page:
        chat = ChatPage(page, server.url).open()
        chat.show_tokens(True)
        server.tell("tap")
        chat.ask("Tap?")
        page.locator(".token").nth(1).tap()
        card = page.locator("#token-card")
        expect(card.locator(".token-card-head code")).to_have_text("a")
        rect = card.bounding_box()
        assert rect and rect["x"] >= 0 and rect["x"] + rect["width"] <= 390
        page.locator(".question .bubble").tap()
        expect(card).to_be_hidden()


def test_old_answers_get_their_probabilities_by_being_written_again(chat: ChatPage, server: ChatServer) -> None:
    server.tell("plain")
    chat.ask("Say it")
    server.tell("scored")
    chat.last_answer.get_by_role("button", name="Token probabilities").click()
    expect(chat.last_answer.locator(".token")).to_have_text(list("scored"))
    expect(chat.last_answer.locator(".token-summary")).to_contain_text("6 tokens, perplexity")
    expect(chat.last_answer.locator(".pager-place")).to_have_text("2/2")
