"""Nothing that a model, a file or a server says becomes part of the page, with its policy and without."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import attacks
from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import ChatServer, chat_server
from tests.browser.chromium import visitor
from tests.browser.conftest import OWN_HOST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KEY = "a-key-that-nobody-guesses"
# What may be in an answer, besides the parts that the page itself puts there.
HARMLESS = "a blockquote br code del div em figure figcaption h3 h4 h5 h6 hr li ol p pre span strong"
HARMLESS += " table tbody td th thead tr ul"
INSPECT = """(roots) => roots.flatMap((root) => [...root.querySelectorAll("*")].map((node) => ({
    tag: node.localName, names: node.getAttributeNames(), href: node.getAttribute("href") ?? "" })))"""


def dangers(page: Page) -> list[str]:
    """Return what is in the answers that should not be there."""
    nodes = page.locator(".prose, .token-text, .bubble, .tool-body").evaluate_all(INSPECT)
    tags, names = {*HARMLESS.split(), "button", "svg", "path"}, {"class", "title", "start", "href", "target", "rel"}
    own = {"tabindex", "role", "type", "d", "viewbox", "data-language", "aria-label", "aria-hidden"}
    return [
        str(node)
        for node in nodes
        if node["tag"] not in tags
        or {name.lower() for name in node["names"]} - names - own
        or (node["href"] and not node["href"].startswith(("http://", "https://", "mailto:")))
    ]


def check(page: Page) -> None:
    page.wait_for_timeout(50)  # for handlers that would run by and by
    assert page.evaluate("window.pwned") is None
    assert dangers(page) == []


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with the policy", "without it"])
def test_no_answer_runs_code_or_loads_anything(browser: Browser, server: ChatServer, bypass_csp: bool) -> None:
    with visitor(browser, allowed=OWN_HOST, bypass_csp=bypass_csp) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        chat = ChatPage(page, server.url).open()
        for attack in attacks.ALL:
            server.tell(attack)
            chat.type("/clear")
            chat.ask("Attack.")
            check(page)
        chat.show_tokens(True)
        server.tell("".join(attacks.HTML[:8]))
        chat.ask(attacks.HTML[3])
        check(page)
        assert page.url.startswith(server.url)
        assert chat.problems == []


def test_the_sanitiser_alone_stands_against_all(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed=OWN_HOST, bypass_csp=True) as page:
        chat = ChatPage(page, server.url).open()
        for attack in attacks.ALL:
            page.evaluate(
                """async (html) => {
                    const { sanitized } = await import(new URL("static/js/sanitize.js", document.baseURI));
                    const place = document.createElement("div");
                    place.className = "prose";
                    place.append(sanitized(html));
                    document.getElementById("messages").replaceChildren(place);
                }""",
                attack,
            )
            check(page)
        assert chat.problems == []


def test_the_sanitiser_check_can_fail(browser: Browser, server: ChatServer) -> None:
    with visitor(browser, allowed={*OWN_HOST, "evil.example"}, bypass_csp=True) as page:
        ChatPage(page, server.url).open()
        html = f'<div class="prose">{attacks.HTML[3]}</div>'
        page.evaluate("(html) => { document.getElementById('messages').innerHTML = html; }", html)
        page.wait_for_function("window.pwned === 1")
        assert dangers(page) != []


def test_an_imported_file_is_only_text(new_chat: ChatPage, tmp_path: Path) -> None:
    attack = attacks.HTML[3]
    token = {"text": attack, "logprob": -1, "type": "text", "alternatives": [{"text": attack, "logprob": -1}]}
    answer = {"parent": "1", "role": "assistant", "parts": [{"type": "python", "text": attack}], "model": attack}
    answer |= {"state": attack, "tokens": [token], "finish": "length", "sampling": {"seed": attack}, "dropped": attack}
    messages = {"1": {"parent": None, "role": "user", "text": attack}, "2": answer}
    conversation = {"title": attack, "system": attack, "head": "2", "messages": messages}
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"format": "nanochat.conversations", "version": 1, "conversations": [conversation]}))
    new_chat.page.set_input_files("#import-file", path)
    expect(new_chat.questions).to_have_text(attack)
    new_chat.last_answer.hover()
    new_chat.page.get_by_role("button", name="How this answer was made").click()
    new_chat.page.keyboard.press("Escape")
    new_chat.button("Token probabilities").click()
    new_chat.page.locator(".token").hover()
    check(new_chat.page)
    assert new_chat.page.locator("img").count() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "line 1 is no JSON"),
        ("[]", "there is no conversation in it"),
        ('{"messages": []}', "conversation 1: expected"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "message 1 (assistant) cannot stand there"),
        ('{"messages": [{"role": "user", "content": 3}]}', "message 1 (user) cannot stand there"),
        ('{"messages": {"1": {"parent": "0", "role": "user", "text": "x"}}}', "message 1 follows one that is missing"),
        ('{"messages": {"1": {"parent": "1", "role": "user", "text": "x"}}, "head": "1"}', "in a circle"),
        ('{"messages": {"1": {"parent": null, "role": "user", "text": "x"}}, "head": "7"}', "its head is missing"),
        ('{"messages": {"1": {"parent": null, "role": "root", "text": "x"}}, "head": "1"}', "has the role root"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(chat: ChatPage, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    chat.page.set_input_files("#import-file", path)
    expect(chat.page.locator(".toast").last).to_contain_text(said)
    expect(chat.questions).to_have_count(0)


def test_a_key_is_asked_for_kept_and_sent_to_nobody_else(browser: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    with chat_server(api_keys_file=str(keys)) as server, visitor(browser, allowed=OWN_HOST) as page:
        server.tell("Welcome.")
        page.goto(server.url)
        page.get_by_label("Key", exact=True).fill("a-key-that-is-wrong-enough")
        page.keyboard.press("Enter")
        chat = ChatPage(page, server.url).wait_until_ready()
        chat.type("Hello.")
        expect(page.get_by_role("dialog")).to_be_visible()  # the server refused
        page.get_by_label("Key", exact=True).fill(KEY)
        page.get_by_label("Remember").check()
        page.keyboard.press("Enter")
        expect(chat.last_answer.locator(".answer-body")).to_have_text("Welcome.")
        assert chat.answers.count() == 1
        chat.reload()
        chat.ask("And again?")
        assert page.evaluate("JSON.stringify(Object.entries(localStorage))").count(KEY) == 1
        assert KEY not in page.evaluate("document.documentElement.outerHTML")
