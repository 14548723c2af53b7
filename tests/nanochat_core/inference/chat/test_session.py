"""What stays of a conversation, whatever becomes of its answers, with somebody who says what a test tells him to."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nanochat_core.errors import DataError, SpecError
from nanochat_core.inference.chat.session import ChatEvent, ChatSession, Ended, Message, Said, TalkFailed, text_of
from nanochat_core.inference.chat.spec import AnswerSettings, parse_chat


@dataclass
class Echo:
    """Says how many messages it heard, and the last one, in two pieces."""

    name: str = "echo"
    is_broken: bool = False
    seeds: list[int | None] = field(default_factory=list)

    def answer(self, messages: Sequence[Message], settings: AnswerSettings) -> Iterator[ChatEvent]:
        self.seeds.append(settings.seed)
        if self.is_broken:
            raise TalkFailed("it broke")
        yield Said("text", f"heard {len(messages)}: ")
        yield Said("text", str(messages[-1]["content"]))
        yield Ended("stop")

    def close(self) -> None: ...


@pytest.fixture
def session() -> ChatSession:
    return ChatSession(Echo(), AnswerSettings())


def said(session: ChatSession) -> list[str]:
    return [text_of(message["content"]) for message in session.messages]


def test_each_message_is_answered_with_all_that_was_said_before(session: ChatSession) -> None:
    list(session.ask("hello"))
    list(session.ask("and now?"))
    assert said(session) == ["hello", "heard 1: hello", "and now?", "heard 3: and now?"]


def test_what_was_said_before_the_answer_was_stopped_stays(session: ChatSession) -> None:
    answer = session.ask("hello")
    next(answer)
    answer.close()
    assert said(session) == ["hello", "heard 1: "]


def test_a_message_that_got_no_answer_was_not_said(session: ChatSession) -> None:
    list(session.ask("hello"))
    session.talker.is_broken = True  # type: ignore[attr-defined]
    with pytest.raises(TalkFailed):
        list(session.ask("again"))
    assert said(session) == ["hello", "heard 1: hello"]
    with pytest.raises(TalkFailed):
        list(session.retry())
    assert said(session) == ["hello", "heard 1: hello"]


def test_another_answer_takes_the_place_of_the_last_with_another_seed(session: ChatSession) -> None:
    session.settings = session.settings.changed(seed=5)
    list(session.ask("hello"))
    list(session.retry())
    list(session.ask("more"))
    assert said(session) == ["hello", "heard 1: hello", "more", "heard 3: more"]
    assert session.talker.seeds == [5, 6, 5]  # type: ignore[attr-defined]
    session.forget()
    with pytest.raises(DataError, match="Nothing has been said"):
        session.retry()


def test_a_conversation_is_the_same_after_it_was_saved_and_loaded(session: ChatSession, tmp_path: Path) -> None:
    session.settings = session.settings.changed(system="Be brief.")
    list(session.ask("hello"))
    session.save(tmp_path / "chat.json")
    other = ChatSession(Echo(), AnswerSettings())
    other.load(tmp_path / "chat.json")
    assert other.messages == session.messages
    assert other.settings.system == "Be brief."
    session.save(tmp_path / "chat.json")  # over an earlier conversation


@pytest.mark.parametrize(
    "text", ["no json", "[]", '{"messages": 3}', '{"messages": ["a"]}', '{"messages": [{"role": "assistant"}]}', "{}"]
)
def test_a_file_that_holds_no_conversation_is_neither_loaded_nor_overwritten(
    session: ChatSession, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    for act in (session.load, session.save):
        with pytest.raises(DataError, match=r"chat\.json"):
            act(path)
    assert path.read_text() == text


def test_files_that_cannot_be_read_or_written_are_said_in_one_line(session: ChatSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        session.load(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be written: No such file"):
        session.save(tmp_path / "none" / "chat.json")


def test_a_question_without_an_answer_is_not_loaded(session: ChatSession, tmp_path: Path) -> None:
    messages = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    (tmp_path / "chat.json").write_text(json.dumps({"messages": messages}))
    session.load(tmp_path / "chat.json")
    assert session.messages == messages[:2]


def test_settings_that_cannot_be_are_refused_all_at_once() -> None:
    with pytest.raises(SpecError, match=r"unknown setting temprature \(did you mean 'temperature'\?\)"):
        parse_chat({"url": "x", "settings": {"temprature": 1}})
    with pytest.raises(SpecError, match=r"(?s)temperature: .*\(got 3\).*top_k: "):
        parse_chat({"url": "x", "settings": {"temperature": 3, "top_k": 0}})
    with pytest.raises(SpecError, match="nobody to talk with"):
        parse_chat({"prompt": "hi"})
