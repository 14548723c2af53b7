"""The list of conversations, the message box, the settings: what is kept, moved, renamed and thrown away."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from nanochat_core.chat_format import read_jsonl_conversations
from tests.browser.chat_page import ChatPage
from tests.browser.chat_server import MODEL, ChatServer, chat_server, parts
from tests.browser.chromium import visitor
from tests.browser.conftest import OWN_HOST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def menu(chat: ChatPage, title: str, entry: str) -> None:
    """Choose an entry of a conversation's menu."""
    chat.page.get_by_role("listitem").filter(has_text=title).hover()
    chat.button(f"Menu of {title}").click()
    chat.page.get_by_role("menuitem", name=entry, exact=True).click()


def downloaded(chat: ChatPage, click: "object") -> Path:
    with chat.page.expect_download() as download:
        click()  # type: ignore[operator]
    return Path(download.value.path())


def test_conversations_are_listed_opened_renamed_and_deleted(new_chat: ChatPage) -> None:
    chat = new_chat
    expect(chat.page.get_by_text("What you ask stays here")).to_be_visible()
    for title in ("First one", "Second one"):
        chat.type("/clear")
        chat.ask(title)
    expect(chat.titles).to_have_text(["Second one", "First one"])
    chat.titles.nth(1).click()
    expect(chat.questions).to_have_text("First one")
    menu(chat, "First one", "Rename")
    chat.page.keyboard.type("Number 1")
    chat.page.keyboard.press("Enter")
    expect(chat.titles).to_have_text(["Second one", "Number 1"])
    chat.page.go_back()
    expect(chat.questions).to_have_text("Second one")
    menu(chat, "Second one", "Delete")
    expect(chat.titles).to_have_text(["Number 1"])
    expect(chat.questions).to_have_count(0)
    chat.button("Undo").click()
    expect(chat.titles).to_have_text(["Second one", "Number 1"])
    chat.reload()
    expect(chat.titles).to_have_text(["Second one", "Number 1"])
    chat.button("Settings").click()
    chat.button("Delete all chats…").click()
    chat.button("Delete all").click()
    expect(chat.titles).to_have_count(0)


def test_an_export_can_be_imported_with_all_branches(new_chat: ChatPage, server: ChatServer, tmp_path: Path) -> None:
    chat = new_chat
    server.tell("one")
    chat.ask("Which <b>?")
    server.tell(parts(python="1+1", python_output="2"))
    chat.button("Answer again").click()
    expect(chat.last_answer.locator(".tool")).to_be_visible()
    path = downloaded(chat, chat.button("Export all").click)
    exported = json.loads(path.read_text(encoding="utf-8"))
    assert exported["format"] == "nanochat.conversations" and len(exported["conversations"]) == 1
    menu(chat, "Which <b>?", "Delete")
    expect(chat.titles).to_have_count(0)
    chat.page.set_input_files("#import-file", path)
    expect(chat.titles).to_have_text(["Which <b>?"])
    expect(chat.last_answer.locator(".tool summary")).to_contain_text("1+1")
    chat.last_answer.get_by_role("button", name="Earlier variant").click()
    expect(chat.last_answer.locator(".answer-body")).to_have_text("one")


def test_an_export_for_training_is_what_training_reads(new_chat: ChatPage, server: ChatServer, tmp_path: Path) -> None:
    chat = new_chat
    chat.type("/system Be kind.")
    answer = parts(text="It is ", python="1+1", python_output="2")
    server.tell(answer)
    chat.ask("1+1?")
    path = downloaded(chat, lambda: menu(chat, "1+1?", "Export for training"))
    [conversation] = read_jsonl_conversations(path)
    assert conversation["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": answer},
    ]
    menu(chat, "1+1?", "Delete")
    expect(chat.titles).to_have_count(0)
    lines = tmp_path / "two.jsonl"
    lines.write_text(path.read_text() + '[{"role": "user", "content": "bare"}]\n')
    chat.page.set_input_files("#import-file", lines)
    expect(chat.titles).to_have_text(["1+1?", "bare"])


def test_two_tabs_show_the_same(new_chat: ChatPage, server: ChatServer) -> None:
    other = ChatPage(new_chat.page.context.new_page(), server.url).open()
    server.tell("seen by both")
    new_chat.ask("Hello, other tab")
    expect(other.titles).to_have_text(["Hello, other tab"])
    other.titles.click()
    expect(other.last_answer.locator(".answer-body")).to_have_text("seen by both")
    server.tell("again")
    new_chat.ask("More")
    expect(other.last_answer.locator(".answer-body")).to_have_text("again")


def test_a_question_can_be_deleted_with_what_follows(chat: ChatPage) -> None:
    chat.ask("Stays")
    chat.ask("Goes")
    chat.questions.last.hover()
    chat.page.locator(".question").last.get_by_role("button", name="Delete from here on").click()
    expect(chat.questions).to_have_text(["Stays"])
    chat.button("Undo").click()
    expect(chat.questions).to_have_text(["Stays", "Goes"])


def test_lines_composition_and_blanks(chat: ChatPage, server: ChatServer) -> None:
    box = chat.box
    expect(chat.button("Send")).to_be_disabled()
    box.press_sequentially("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    expect(box).to_have_value("one\ntwo")
    press = "(box, more) => box.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, ...more }))"
    for more in ({"isComposing": True}, {"keyCode": 229}):
        box.evaluate(press, more)
        expect(box).to_have_value("one\ntwo")
    box.press("Enter")
    expect(box).to_have_value("")
    chat.wait_for_end()
    assert server.prompt() == "one\ntwo"
    asked = len(server.engine.requests)
    chat.type("   ")
    assert len(server.engine.requests) == asked


def test_the_box_grows_and_keeps_a_draft_for_each_chat(chat: ChatPage) -> None:
    chat.ask("One chat")
    low = chat.box.bounding_box()
    chat.box.fill("draft\n" * 6)
    high = chat.box.bounding_box()
    assert low and high and high["height"] > 2 * low["height"]
    chat.button("New chat").click()
    expect(chat.box).to_have_value("")
    chat.titles.first.click()
    expect(chat.box).to_have_value("draft\n" * 6)
    chat.box.fill("")


def test_commands_are_offered_and_completed(chat: ChatPage) -> None:
    box, options = chat.box, chat.page.get_by_role("listbox", name="Commands").get_by_role("option")
    box.press_sequentially("/to")
    expect(options.locator("code")).to_have_text(["/topk [number]", "/topp [number]", "/tokens", "/tokenizer"])
    box.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    expect(box).to_have_attribute("aria-activedescendant", "command-topp")
    box.press("Tab")
    expect(box).to_have_value("/topp ")
    box.press_sequentially("0.25")
    box.press("Enter")
    expect(chat.page.locator(".toast").last).to_have_text("Top-p is 0.25.")
    chat.type("/topp 7")
    expect(chat.page.locator(".toast").last).to_contain_text("from 0.05 to 1, not 7")
    expect(box).to_have_value("/topp 7")
    chat.type("/seed -")
    chat.type("/help")
    expect(chat.page.locator(".note")).to_contain_text("/temperature [number]")
    chat.type("//not a command")
    expect(chat.questions.last).to_have_text("/not a command")
    expect(chat.page.locator(".note")).to_have_count(0)
    chat.wait_for_end()
    chat.type("/edit")
    expect(chat.page.get_by_label("Edit the message")).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_label("Edit the message")).to_have_count(0)
    box.focus()
    box.press("ArrowUp")
    expect(chat.page.get_by_label("Edit the message")).to_be_focused()
    chat.page.keyboard.press("Escape")
    chat.type("/retry")
    expect(chat.last_answer.locator(".pager-place")).to_have_text("2/2")


def test_settings_are_sent_kept_and_checked(new_chat: ChatPage, server: ChatServer) -> None:
    chat = new_chat
    chat.button("Settings").click()
    panel = chat.page.get_by_role("complementary", name="Settings")
    panel.get_by_role("spinbutton", name="Temperature").fill("0.35")
    panel.get_by_role("spinbutton", name="Top-k").fill("0")
    panel.get_by_role("slider", name="Top-p").fill("0.5")
    panel.get_by_role("spinbutton", name="Max tokens").fill("99999")
    expect(panel.locator("#setting-max_tokens-hint")).to_contain_text("from 1 to 4096, not 99999")
    panel.get_by_label("Seed").fill("17")
    panel.get_by_label("System prompt").fill("Speak like a pirate.")
    panel.get_by_role("button", name="Use for new chats, too").click()
    panel.get_by_role("switch", name="Calculator").uncheck()
    expect(chat.page.locator("#sampling-summary")).to_have_text("Temp 0.35 · top-p 0.5 · seed 17")
    chat.reload()
    chat.ask("Ahoy.")
    sampling = server.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.35, None, 0.5, 17)
    assert (sampling.max_new_tokens, sampling.use_tools) == (2000, False)
    assert server.prompt() == "Speak like a pirate.\n\nAhoy."
    expect(chat.page.get_by_role("combobox", name="Model")).to_have_value(MODEL)
    chat.button("Settings").click()
    chat.button("Reset").click()
    expect(chat.page.locator("#sampling-summary")).to_have_text("Temp 0.8 · top-k 50")
    chat.page.get_by_role("button", name="How this answer was made").click()
    table = chat.page.get_by_role("dialog", name="How this answer was made")
    expect(table).to_contain_text(re.compile(r"Seed\s*17"))
    expect(table).to_contain_text(re.compile(r"Temperature\s*0\.35"))
    expect(table).to_contain_text("First token after")


def test_the_numbers_below_an_answer_are_the_server_s(chat: ChatPage, server: ChatServer) -> None:
    server.tell("twelve bytes")
    chat.ask("How many?")
    expect(chat.last_answer.locator(".stats")).to_have_text(re.compile(r"13 tokens · [\d.]+ tok/s"))  # one is the end
    prompt = len(server.engine.requests[-1].ids)
    expect(chat.page.locator("#meter")).to_have_text(f"{prompt + 13} of 4,096 tokens")


def test_messages_and_code_are_copied_as_they_were_written(new_chat: ChatPage, server: ChatServer) -> None:
    chat = new_chat
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "Some **bold** code:\n\n```python\nx = '<b>'\n```"
    server.tell(text)
    chat.ask("Copy me")
    for button, copied in (("Copy message", "Copy me"), ("Copy code", "x = '<b>'"), ("Copy answer", text)):
        chat.questions.hover()
        chat.button(button).click()
        expect(chat.page.get_by_role("button", name="Copied")).to_be_visible()
        assert chat.page.evaluate("navigator.clipboard.readText()") == copied
        expect(chat.page.get_by_role("button", name="Copied")).to_have_count(0)
    chat.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as on plain http
    chat.button("Copy code").click()
    expect(chat.page.get_by_role("button", name="Copied")).to_be_visible()


def test_the_tokenizer_can_be_played_with(chat: ChatPage) -> None:
    chat.button("Tokenizer playground").click()
    dialog = chat.page.get_by_role("dialog", name="Tokenizer playground")
    dialog.get_by_label("Text").fill("a é")
    expect(dialog.get_by_role("status")).to_have_text("4 tokens, 3 characters, 4 bytes, 1.00 bytes a token")
    expect(dialog.locator(".piece small")).to_have_text(["97", "32", "195", "169"])
    expect(dialog.locator(".piece > span")).to_have_text(["a", "␣", "\\xc3", "\\xa9"])
    dialog.get_by_label("Ids").fill("72, 105")
    expect(dialog.get_by_label("Text")).to_have_value("Hi")
    dialog.get_by_label("Ids").fill("99999")
    expect(dialog.get_by_role("status")).to_contain_text("Token ids are 0 to")
    chat.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    chat.type("/tokenizer")
    expect(dialog).to_be_visible()
    chat.page.keyboard.press("Escape")


def test_the_page_works_below_a_path(browser: Browser) -> None:
    path = "/deep/below"
    with chat_server(root_path=path) as server, visitor(browser, allowed=OWN_HOST) as page:
        assert server.url.endswith(f"{path}/")
        server.tell("Here too.")
        # What a proxy does that has the server below a path: it takes the path off. All else does not exist.
        page.route("**", lambda route: route.abort())
        page.route(f"**{path}/**", lambda route: route.continue_(url=route.request.url.replace(path, "", 1)))
        chat = ChatPage(page, server.url).open()
        expect(chat.ask("Where?").locator(".answer-body")).to_have_text("Here too.")
        assert chat.problems == []


def test_a_browser_without_storage_still_chats(browser: Browser, server: ChatServer) -> None:
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['indexedDB', 'localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    chat = ChatPage(context.new_page(), server.url).open()
    expect(chat.page.locator(".toast")).to_contain_text("chats are lost when the page is closed")
    chat.ask("Anyway.")
    expect(chat.titles).to_have_text(["Anyway."])
    assert chat.problems == []
    context.close()
