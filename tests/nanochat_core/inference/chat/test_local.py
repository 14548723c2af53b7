"""A chat with an engine in this process, which is a fake one: asynchronous, at the pace of the test."""

from collections.abc import Iterator

import pytest

from nanochat_core.errors import DataError
from nanochat_core.inference.chat.local import LocalTalker
from nanochat_core.inference.chat.session import ChatSession, Ended, Note, Said, TalkFailed
from nanochat_core.inference.chat.spec import AnswerSettings
from nanochat_core.tokenizer.render import render_prompt
from tests.fake_engine import FakeEngine, TokenClock, wait_until


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(answer=lambda request: "four")


@pytest.fixture
def talker(engine: FakeEngine) -> Iterator[LocalTalker]:
    talker = LocalTalker(engine, "fake")
    yield talker
    talker.close()
    assert engine.is_closed


def test_pieces_come_as_the_engine_makes_them(engine: FakeEngine, talker: LocalTalker) -> None:
    engine.clock = TokenClock(tokens_per_second=20)
    session = ChatSession(talker, AnswerSettings(system="Be brief.", temperature=0.5, seed=3))
    answer = session.ask("2+2?")
    assert next(answer) == Said("text", "f")
    assert engine.finished == []
    engine.clock.run()
    assert list(answer) == [*(Said("text", letter) for letter in "our"), Ended("stop")]
    (request,) = engine.requests
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    assert list(request.ids) == render_prompt(engine.tokenizer, {"messages": messages})
    assert (request.sampling.temperature, request.sampling.seed) == (0.5, 3)


def test_an_answer_that_is_stopped_leaves_the_engine(engine: FakeEngine, talker: LocalTalker) -> None:
    engine.clock, engine.answer = TokenClock(tokens_per_second=20), lambda request: "x" * 400
    answer = ChatSession(talker, AnswerSettings()).ask("2+2?")
    next(answer)
    answer.close()
    wait_until(lambda: len(engine.cancelled) == 1)
    assert engine.stats().running == 0


def test_tool_calls_are_told_apart_and_go_back_as_they_were(engine: FakeEngine, talker: LocalTalker) -> None:
    parts = [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "2."},
    ]
    engine.answer = lambda request: parts
    session = ChatSession(talker, AnswerSettings())
    list(session.ask("1+1?"))
    assert session.messages[1]["content"] == parts
    list(session.ask("Sure?"))
    expected = render_prompt(engine.tokenizer, {"messages": session.messages[:3]})
    assert list(engine.requests[1].ids) == expected


def test_oldest_turns_are_left_out_where_the_context_is_too_short(engine: FakeEngine, talker: LocalTalker) -> None:
    engine.max_context = 200
    session = ChatSession(talker, AnswerSettings(max_tokens=100))
    for _ in range(3):
        list(session.ask("x" * 50))
    first, *_ = session.ask("y" * 50)
    assert isinstance(first, Note) and "first 4 messages are left out" in first.text
    ids = engine.requests[-1].ids
    assert len(ids) + engine.requests[-1].sampling.max_new_tokens <= 200
    assert ids.count(ord("x")) == 50
    with pytest.raises(DataError, match="say it in fewer words"):
        list(session.ask("z" * 300))
    assert len(session.messages) == 8


def test_an_engine_that_breaks_says_so_in_one_line(engine: FakeEngine, talker: LocalTalker) -> None:
    engine.fail_after(2)
    session = ChatSession(talker, AnswerSettings())
    with pytest.raises(TalkFailed, match="The engine broke: the matrix is singular"):
        list(session.ask("2+2?"))
    assert list(session.ask("2+2?"))[-1] == Ended("stop")
