"""The chat in the terminal, with a fake model, and its refusals with none."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat_core.inference import chat_cli
from nanochat_core.inference.interface import Completion, Conversation
from tests.fakes import FakeTextModel

Chat = Callable[..., str]


def say_how_much_was_said(conversation: Conversation) -> str:
    return f"heard {len(conversation['messages'])}: {conversation['messages'][-1]['content']}"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Return a function that holds a chat of these lines with a fake model and returns what was printed."""

    def hold(*lines: str, options: tuple[str, ...] = (), model: FakeTextModel | None = None) -> str:
        fake = model or FakeTextModel(answer=say_how_much_was_said)
        typed: Iterator[str] = iter(lines)
        monkeypatch.setattr(chat_cli, "load_text_model", lambda *folders: fake)
        monkeypatch.setattr("builtins.input", lambda *_: next(typed, None) or _end())
        monkeypatch.setattr(sys, "argv", ["chat", "model", "tokenizer", *options])
        with pytest.raises(SystemExit) as ended:
            chat_cli.main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    return hold


def _end() -> str:
    raise EOFError


def test_each_message_is_answered_with_all_that_was_said_before(chat: Chat) -> None:
    printed = chat("hello", "and now?")
    assert "heard 1: hello" in printed
    assert "heard 3: and now?" in printed


def test_a_new_conversation_forgets_and_quit_leaves(chat: Chat) -> None:
    printed = chat("hello", "/new", "again", "/quit", "never read")
    assert "heard 1: again" in printed
    assert "never read" not in printed


def test_a_prompt_is_answered_once_without_asking(chat: Chat) -> None:
    printed = chat("never read", options=("--prompt", "hi"))
    assert printed.strip() == "heard 1: hi"


def test_a_tool_call_and_its_result_are_shown_in_brackets(chat: Chat) -> None:
    parts = [
        {"type": "text", "text": "So"},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "it is 2."},
    ]
    model = FakeTextModel(answer=lambda _: parts)
    assert chat(options=("--prompt", "1+1?"), model=model).strip() == "So ⟦1+1 = 2⟧ it is 2."


def test_an_answer_cut_at_its_limit_says_so() -> None:
    cut = Completion(ids=(1,), mask=(1,), parts=({"type": "text", "text": "and"},), finish_reason="length")
    assert chat_cli.answer_text(cut).plain == "and … (cut at the longest answer)"


def test_a_folder_without_a_model_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["chat", str(tmp_path), str(tmp_path), "--prompt", "hi"])
    with pytest.raises(SystemExit) as ended:
        chat_cli.main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert str(tmp_path) in printed
