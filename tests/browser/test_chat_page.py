"""The chat page in a real browser, against the real server: what everybody does with it. More in test_chat_page_*."""

import hashlib
import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import ChatServer
from tests.fake_engine import wait_until
from tests.test_architecture import ROOT

STATIC = ROOT / "deployments" / "serving" / "static"
GRAVE = ("serious", "critical")


def test_an_answer_appears_token_by_token_in_order(chat: ChatPage, server: ChatServer) -> None:
    server.tell("one *two* three", is_stopped=True)
    chat.begin("Count.")
    body = chat.last_answer.locator(".answer-body")
    for tokens, shown in ((3, "one"), (6, "one two"), (6, "one two three")):
        server.advance(tokens)
        expect(body).to_have_text(shown)
    server.engine.clock.run()
    chat.wait_for_end()
    expect(chat.last_answer.locator("em")).to_have_text("two")
    assert server.prompt() == "Count."


@pytest.mark.parametrize("how", ["Esc", "button"])
def test_stopping_ends_the_answer_on_the_server_and_keeps_what_had_come(
    chat: ChatPage, server: ChatServer, how: str
) -> None:
    server.tell("half of a sentence", is_stopped=True)
    chat.begin("Talk.")
    server.advance(4)
    expect(chat.last_answer.locator(".answer-body")).to_have_text("half")
    assert server.running == 1
    if how == "Esc":
        chat.page.keyboard.press("Escape")
    else:
        chat.button("Stop").click()
    wait_until(lambda: server.running == 0)
    chat.wait_for_end()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("half")
    expect(chat.last_answer.get_by_text("Stopped.")).to_be_visible()
    expect(chat.box).to_be_focused()


def test_answering_again_and_editing_keep_the_old_variants(chat: ChatPage, server: ChatServer) -> None:
    server.tell("first")
    chat.ask("Which?")
    server.tell("second")
    chat.button("Answer again").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("second")
    chat.button("Edit and send again").click()
    server.tell("third")
    chat.page.get_by_label("Edit the message").fill("Which one?")
    chat.page.keyboard.press("Enter")
    expect(chat.last_answer.locator(".answer-body")).to_have_text("third")
    assert server.prompt() == "Which one?"
    chat.page.locator(".question").get_by_role("button", name="Earlier variant").click()
    expect(chat.questions).to_have_text("Which?")
    expect(chat.last_answer.locator(".answer-body")).to_have_text("second")
    expect(chat.last_answer.locator(".pager-place")).to_have_text("2/2")
    chat.last_answer.get_by_role("button", name="Earlier variant").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("first")


def test_a_script_in_an_answer_is_text(chat: ChatPage, server: ChatServer) -> None:
    html = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    server.tell(f"{html}\n\n[go](javascript:alert(3)) ![i](http://evil.example/x)")
    answer = chat.ask("Attack.")
    expect(answer.locator(".answer-body")).to_have_text(f"{html}go Image: i")
    assert answer.locator("script, img, [onerror], a[href^=javascript]").count() == 0
    assert answer.get_by_role("link").evaluate("(a) => [a.href, a.rel]") == [
        "http://evil.example/x",
        "noopener noreferrer nofollow",
    ]


def test_a_tool_call_is_folded_and_goes_back_to_the_model_as_it_was(chat: ChatPage, server: ChatServer) -> None:
    parts = [("text", "It is "), ("python", "12*7"), ("python_output", "84"), ("text", "84.")]
    server.tell([{"type": kind, "text": text} for kind, text in parts])
    answer = chat.ask("What is 12*7?")
    tool = answer.locator("details.tool")
    expect(tool.locator("summary")).to_have_text(re.compile(r"Tool\s*12\*7\s*→\s*84"))
    expect(tool.locator(".tool-body")).to_be_hidden()
    tool.locator("summary").click()
    expect(tool.locator(".tool-body")).to_have_text(re.compile(r"Call\s*12\*7\s*Output\s*84"))
    expect(answer.locator(".prose").last).to_have_text("84.")
    server.tell("Yes.")
    chat.ask("Really?")
    tokenizer = server.engine.tokenizer
    ids = server.engine.requests[-1].ids
    assert [tokenizer.special(f"<|{name}|>") in ids for name in ("python_start", "output_end")] == [True, True]


def test_the_probabilities_of_tokens_can_be_seen(chat: ChatPage, server: ChatServer) -> None:
    server.tell("ab\ncd")
    chat.show_tokens(True)
    answer = chat.ask("Letters.")
    assert server.sampling.logprobs == 6
    tokens = answer.locator(".token")
    assert tokens.all_inner_texts() == ["a", "b", "↵\n", "c", "d"]
    assert all(re.search(r"\bp[0-4]\b", token.get_attribute("class") or "") for token in tokens.all())
    tokens.nth(1).hover()
    card = chat.page.locator("#token-card")
    expect(card.locator("li.chosen")).to_have_count(1)
    assert card.locator("li").count() in (6, 7)  # where the chosen one is none of the likeliest six, it is the seventh
    answer.locator(".token-text").focus()
    chat.page.keyboard.press("ArrowRight")
    expect(card.locator(".token-card-head code")).to_have_text("↵")
    chat.page.keyboard.press("End")
    expect(card.locator(".token-card-head code")).to_have_text("d")
    chat.page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    answer.get_by_role("button", name="Token probabilities").click()
    expect(answer.locator(".prose")).to_have_text("ab cd")


def test_an_answer_that_breaks_off_is_kept_and_can_be_asked_for_again(chat: ChatPage, server: ChatServer) -> None:
    server.tell("whole at last")
    server.engine.fail_after(5)
    answer = chat.ask("Well?")
    expect(answer.locator(".answer-body")).to_have_text("whole")
    expect(answer.locator(".error")).to_be_visible()
    expect(answer.locator(".error")).to_contain_text("The model failed on this request.")
    answer.get_by_role("button", name="Retry").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("whole at last")
    expect(chat.last_answer.locator(".error")).to_be_hidden()
    expect(chat.last_answer.locator(".pager-place")).to_have_text("2/2")


def test_slash_commands_set_what_they_name(chat: ChatPage, server: ChatServer) -> None:
    for command in ("/temperature 0", "/topk 7", "/topp 0.5", "/max 33", "/seed 4", "/system Be brief."):
        chat.type(command)
        expect(chat.box).to_have_value("")
    chat.ask("Go.")
    sampling = server.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.0, 7, 0.5)
    assert (sampling.max_new_tokens, sampling.seed) == (33, 4)
    assert server.prompt() == "Be brief.\n\nGo."
    chat.type("/tempertaure 1")
    expect(chat.page.locator(".toast").last).to_contain_text("Did you mean /temperature?")
    chat.type("/clear")
    expect(chat.questions).to_have_count(0)


def test_a_reload_keeps_history_and_settings_and_asks_nobody_else(chat: ChatPage, server: ChatServer) -> None:
    server.tell("Kept **for good**.")
    chat.ask("Keep this")
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    chat.reload()
    expect(chat.questions).to_have_text("Keep this")
    expect(chat.last_answer.locator("strong")).to_have_text("for good")
    expect(chat.page.locator("[aria-current] .conversation-title")).to_have_text("Keep this")
    expect(chat.page.locator("#sampling-summary")).to_contain_text("Temp 0")
    assert len(asked) > 10 and {url for url in asked if not url.startswith(server.url)} == set()
    assert len(server.engine.requests) and server.running == 0


def test_the_page_has_no_grave_barrier(chat: ChatPage, server: ChatServer) -> None:
    server.tell("# Title\n\n- `code`\n\n```python\nx = 1\n```\n\n[link](https://example.org)")
    chat.ask("Show all.")
    found = Axe().run(chat.page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in GRAVE] == []


def test_the_vendored_libraries_are_those_of_the_manifest() -> None:
    vendor = STATIC / "vendor"
    packages = json.loads((vendor / "manifest.json").read_text(encoding="utf-8"))["packages"]
    listed = {file["path"]: file["sha256"] for package in packages for file in package["files"]}
    found = {
        path.relative_to(vendor).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert found == listed
    for package in packages:
        assert package["version"] and package["license"]
        assert any("LICENSE" in file["path"] for file in package["files"])


def test_every_module_is_loaded_ahead_and_every_style_is_linked() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:href|src)="static/([^"]+)"', page))
    files = {path.relative_to(STATIC).as_posix() for path in (*STATIC.glob("js/*.js"), *STATIC.glob("css/*.css"))}
    assert files - named == {"css/api.css"}  # that one is of the page about the API
    assert not re.search(r"""\s(?:style|on\w+)=["']|<style|<script(?![^>]+src=)""", page)
    assert [name for name in named if not (STATIC / name).is_file()] == []


def test_scripts_and_styles_keep_the_sizes_of_the_house() -> None:
    sources = {path.name: path.read_text(encoding="utf-8").splitlines() for path in STATIC.glob("*s/*.*s")}
    assert len(sources) > 40
    assert [name for name, lines in sources.items() if len(lines) > 500 or max(map(len, lines)) > 120] == []
