"""What happens while an answer comes: drawing, scrolling, breaks, and chats that are longer than the context."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import ChatServer, chat_server
from tests.browser.chromium import visitor
from tests.browser.conftest import OWN_HOST
from tests.fake_engine import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COUNT_DRAWINGS = """() => {
    window.counts = { frames: 0, drawings: 0 };
    const frame = () => { window.counts.frames += 1; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
    new MutationObserver(() => { window.counts.drawings += 1; })
        .observe(document.querySelector(".answer-body"), { childList: true, characterData: true, subtree: true });
}"""
PARSE = """async ([text, ends]) => {
    const { eventData } = await import(new URL("static/js/event_stream.js", document.baseURI));
    const bytes = new TextEncoder().encode(text);
    const results = [];
    for (const end of ends) {
        const stream = new ReadableStream({ start(controller) {
            for (let at = 0; at < bytes.length; at += end) controller.enqueue(bytes.slice(at, at + end));
            controller.close();
        } });
        const data = [];
        for await (const one of eventData(stream)) data.push(one);
        results.push(JSON.stringify(data));
    }
    return results;
}"""


def distance(chat: ChatPage) -> float:
    """Return how many pixels of the messages lie below what is seen."""
    return float(chat.page.locator("#scroller").evaluate("(s) => s.scrollHeight - s.scrollTop - s.clientHeight"))


def test_many_tokens_are_drawn_at_most_once_a_frame(chat: ChatPage, server: ChatServer) -> None:
    words = " ".join(str(number) for number in range(300))
    server.tell(words, is_stopped=True)
    chat.begin("Count.")
    server.advance(1)
    expect(chat.last_answer.locator(".answer-body")).to_have_text("0")
    chat.page.evaluate(COUNT_DRAWINGS)
    server.engine.clock.run()
    chat.wait_for_end()
    expect(chat.last_answer.locator(".answer-body")).to_have_text(words)
    counts = chat.page.evaluate("window.counts")
    assert 0 < counts["drawings"] <= counts["frames"] + 1
    assert counts["drawings"] < len(words) / 4, "nothing was put together: this test could not fail"


def test_events_are_read_however_the_bytes_are_cut(chat: ChatPage) -> None:
    text = ': ping\r\ndata: {"a": "ü€😀"}\r\n\r\ndata: one\ndata:two\n\nevent: x\n\ndata: [DONE]\r\rdata: lost'
    found = set(chat.page.evaluate(PARSE, [text, [1, 2, 3, 5, 7, 1000]]))
    assert found == {'["{\\"a\\": \\"ü€😀\\"}","one\\ntwo","[DONE]"]'}


def test_a_block_of_code_is_one_before_it_is_closed(chat: ChatPage, server: ChatServer) -> None:
    start = "So:\n\n```python\nif x < 3:\n"
    server.tell(f"{start}    pass\n```\nDone.", is_stopped=True)
    chat.begin("Code.")
    server.advance(len(start))
    code = chat.last_answer.locator("figure.code")
    expect(code.locator("code")).to_have_text("if x < 3:")
    expect(code.locator(".hljs-keyword")).to_have_text("if")
    node = code.element_handle()
    server.engine.clock.run()
    chat.wait_for_end()
    expect(chat.last_answer.locator(".prose")).to_contain_text("Done.")
    assert node.evaluate("(node) => node.isConnected"), "the block was made anew, and lost its scroll position"


@pytest.mark.parametrize("answer", ["84.", "-", "1) one", "12. Dezember"])
def test_an_answer_that_looks_like_the_start_of_a_list_is_seen(chat: ChatPage, server: ChatServer, answer: str) -> None:
    server.tell(answer)
    body = chat.ask("Say it.").locator(".answer-body")
    start = body.locator("ol").get_attribute("start") if body.locator("ol").count() else None
    assert answer in (body.inner_text(), f"{start}. {body.inner_text()}", f"1) {body.inner_text()}")


def test_the_end_stays_in_sight_only_for_who_is_there(chat: ChatPage, server: ChatServer) -> None:
    lines = "".join(f"line {number}\n\n" for number in range(120))
    server.tell(lines, is_stopped=True)
    chat.begin("Write a lot.")
    server.advance(700)
    expect(chat.last_answer).to_contain_text("line 70")
    chat.drawn()
    assert distance(chat) < 2
    expect(chat.button("Jump to latest")).to_be_hidden()
    chat.page.mouse.move(700, 300)
    chat.page.mouse.wheel(0, -400)
    expect(chat.button("Jump to latest")).to_be_visible()
    place = chat.page.locator("#scroller").evaluate("(s) => s.scrollTop")
    server.advance(300)
    expect(chat.last_answer).to_contain_text("line 100")
    chat.drawn()
    assert chat.page.locator("#scroller").evaluate("(s) => s.scrollTop") == place
    chat.button("Jump to latest").click()
    wait_until(lambda: distance(chat) < 2)
    server.engine.clock.run()
    chat.wait_for_end()
    chat.drawn()
    assert distance(chat) < 2


def test_an_answer_goes_on_while_another_chat_is_shown(chat: ChatPage, server: ChatServer) -> None:
    server.tell("slow but sure", is_stopped=True)
    chat.begin("Behind the scenes")
    server.advance(4)
    expect(chat.last_answer.locator(".answer-body")).to_have_text("slow")
    chat.button("New chat").click()
    expect(chat.page.get_by_role("img", name="is being answered")).to_be_visible()
    expect(chat.button("Stop")).to_be_hidden()
    server.engine.clock.run()
    expect(chat.page.locator(".toast")).to_contain_text("“Behind the scenes” has its answer.")
    chat.titles.first.click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("slow but sure")


def test_a_cut_answer_says_so_and_goes_on(chat: ChatPage, server: ChatServer) -> None:
    server.tell("abcdef")
    chat.type("/max 3")
    answer = chat.ask("Letters.")
    expect(answer.locator(".ending")).to_be_visible()
    expect(answer.locator(".ending")).to_contain_text("Cut off at the limit of tokens.")
    server.tell("def")
    chat.type("/max 300")
    chat.last_answer.get_by_role("button", name="Continue").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("abcdef")
    assert server.prompt() == "Letters.\n\nabc"
    expect(chat.last_answer.locator(".stats")).to_contain_text("7 tokens")
    expect(chat.last_answer.locator(".pager")).to_be_hidden()


def test_what_the_context_cannot_hold_is_said(chat: ChatPage, server: ChatServer) -> None:
    server.tell("Yes.")
    chat.ask("a" * 3000)
    chat.ask("b" * 3000)
    expect(chat.last_answer.locator(".notice")).to_be_visible()
    expect(chat.last_answer.locator(".notice")).to_contain_text("The oldest 2 messages do not fit")
    expect(chat.last_answer.locator(".notice")).to_contain_text("4,096 tokens")
    chat.ask("c" * 5000)
    expect(chat.last_answer.locator(".error")).to_contain_text("Shorten the message, or begin a new chat.")
    chat.ask("short")
    assert server.prompt().endswith("Yes.\n\nshort")


def test_a_busy_server_is_asked_again_after_the_wait(chat: ChatPage, server: ChatServer) -> None:
    server.tell("At last.")
    places = server.engine.max_running, server.engine.max_waiting
    server.engine.max_running = server.engine.max_waiting = 0
    try:
        chat.begin("Hello?")
        error = chat.last_answer.locator(".error")
        expect(error).to_contain_text("All places are taken")
        expect(error.get_by_role("button")).to_have_text(re.compile(r"Retry in [12] s"))
        asked = len(server.engine.requests)
        error.get_by_role("button").evaluate("(button) => button.click()")
    finally:
        server.engine.max_running, server.engine.max_waiting = places
    expect(error.get_by_role("button")).to_have_text("Retry")
    assert len(server.engine.requests) == asked, "it was asked before the wait was over"
    error.get_by_role("button").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("At last.")
    expect(chat.last_answer.locator(".pager")).to_be_hidden()  # an answer that came to nothing is no variant


def test_a_client_that_asks_too_often_is_told_how_long_to_wait(browser: Browser) -> None:
    rate = {"requests_per_minute": 2, "burst": 4}
    with chat_server(per_client=rate) as server, visitor(browser, allowed=OWN_HOST) as page:
        server.tell("Fine.")
        chat = ChatPage(page, server.url).open()
        for _ in range(6):
            chat.ask("Again!")
        error = chat.last_answer.locator(".error")
        expect(error).to_be_visible()
        expect(error).to_contain_text("asked more often than the server allows")
        expect(error.get_by_role("button")).to_have_text(re.compile(r"Retry in (30|2\d) s"))
        expect(error.get_by_role("button")).to_have_attribute("aria-disabled", "true")


def test_a_server_that_stops_leaves_what_had_come(browser: Browser) -> None:
    with visitor(browser, allowed=OWN_HOST) as page:
        with chat_server() as server:
            server.tell("cut off in the middle", is_stopped=True)
            chat = ChatPage(page, server.url).open()
            chat.begin("Talk.")
            server.advance(7)
            expect(chat.last_answer.locator(".answer-body")).to_have_text("cut off")
            server.live.server.stop()
            expect(chat.last_answer.locator(".error")).to_contain_text("The server is stopping.")
            expect(chat.last_answer.locator(".answer-body")).to_have_text("cut off")
        chat.ask("Still there?")
        expect(chat.last_answer.locator(".error")).to_contain_text("The server cannot be reached. Is it running?")


def test_a_page_that_was_closed_in_the_midst_shows_what_it_had(chat: ChatPage, server: ChatServer) -> None:
    server.tell("never ending story", is_stopped=True)
    chat.begin("Tell me.")
    server.advance(5)
    expect(chat.last_answer.locator(".answer-body")).to_have_text("never")
    chat.page.wait_for_timeout(1100)  # the answer is kept once a second, when a token comes
    server.advance(1)
    chat.page.wait_for_timeout(200)
    chat.reload()
    wait_until(lambda: server.running == 0)
    expect(chat.last_answer.locator(".answer-body")).to_have_text("never")
    expect(chat.last_answer.locator(".ending")).to_contain_text("Stopped.")
    server.tell("ending story.")
    chat.last_answer.get_by_role("button", name="Continue").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("never ending story.")
