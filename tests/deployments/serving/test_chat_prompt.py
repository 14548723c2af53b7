"""From messages to ids: what is joined, what is left out, what is refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.serving import chat_prompt as module
from deployments.serving.chat_prompt import ChatPrompt, chat_prompt
from deployments.serving.errors import ApiError
from deployments.serving.schemas import Message
from nanochat_core.tokenizer.render import render_prompt
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()


def prompt_of(*messages: tuple[str, Any], max_context: int = 10_000, answer_tokens: int = 1) -> ChatPrompt:
    parsed = [Message.model_validate({"role": role, "content": content}) for role, content in messages]
    return chat_prompt(TOKENIZER, parsed, max_context=max_context, answer_tokens=answer_tokens)


def text_of(prompt: ChatPrompt) -> str:
    return TOKENIZER.decode(prompt.ids)


def test_the_prompt_is_what_the_model_was_trained_on() -> None:
    messages = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    conversation = {"messages": [{"role": role, "content": content} for role, content in messages]}
    assert list(prompt_of(*messages).ids) == render_prompt(TOKENIZER, conversation)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("user", "a"), ("user", "b")], "<|user_start|>a\n\nb<|user_end|><|assistant_start|>"),
        (
            [("system", "s"), ("developer", "d"), ("user", "a")],
            "<|user_start|>s\n\nd\n\na<|user_end|><|assistant_start|>",
        ),
        (
            [("user", "a"), ("assistant", "b"), ("system", "s"), ("user", "c")],
            "<|user_start|>a<|user_end|><|assistant_start|>b<|assistant_end|>"
            "<|user_start|>s\n\nc<|user_end|><|assistant_start|>",
        ),
        ([("user", "a"), ("assistant", "b")], "<|user_start|>a<|user_end|><|assistant_start|>b"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c")], "<|user_start|>a<|user_end|><|assistant_start|>bc"),
        (
            [("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
            "<|user_start|>a\nb<|user_end|><|assistant_start|>",
        ),
        (
            [
                ("user", "12*7?"),
                ("assistant", [{"type": "python", "text": "12*7"}, {"type": "python_output", "text": "84"}]),
                ("user", "and?"),
            ],
            "<|user_start|>12*7?<|user_end|><|assistant_start|><|python_start|>12*7<|python_end|>"
            "<|output_start|>84<|output_end|><|assistant_end|><|user_start|>and?<|user_end|><|assistant_start|>",
        ),
    ],
)
def test_messages_of_any_order_become_turns(messages: list[tuple[str, Any]], expected: str) -> None:
    assert text_of(prompt_of(*messages)) == f"<|bos|>{expected}"


def test_parts_that_the_server_gave_count_more_than_the_text_beside_them() -> None:
    parts = [{"type": "python", "text": "1"}, {"type": "text", "text": "x"}]
    given_back = Message.model_validate({"role": "assistant", "content": "x", "nanochat_parts": parts})
    asked = Message(role="user", content="q")
    prompt = chat_prompt(TOKENIZER, [asked, given_back, asked], max_context=1000, answer_tokens=1)
    assert "<|python_start|>1<|python_end|>x" in text_of(prompt)


turns = st.lists(st.tuples(st.text("ab", min_size=0, max_size=30), st.text("cd", max_size=30)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(turns=turns, last=st.text("ef", max_size=60), system=st.text("gh", max_size=20), room=st.integers(16, 400))
def test_a_long_chat_loses_its_oldest_turns_and_no_more(
    turns: list[tuple[str, str]], last: str, system: str, room: int
) -> None:
    history = [message for user, answer in turns for message in (("user", user), ("assistant", answer))]
    messages = [*([("system", system)] if system else []), *history, ("user", last)]
    reserve = min(20, room // 4)
    try:
        prompt = prompt_of(*messages, max_context=room, answer_tokens=20)
    except ApiError as error:
        assert error.code == "context_length_exceeded"
        alone = prompt_of(*([("system", system)] if system else []), ("user", last))
        assert len(alone.ids) >= room
        return
    text = text_of(prompt)
    assert len(prompt.ids) < room and prompt.dropped % 2 == 0 and prompt.dropped <= len(history)
    assert text.endswith(f"{last}<|user_end|><|assistant_start|>") and text.startswith(f"<|bos|><|user_start|>{system}")
    kept = [*([("system", system)] if system else []), *history[prompt.dropped :], ("user", last)]
    assert prompt.ids == prompt_of(*kept).ids
    if prompt.dropped < len(history):
        assert len(prompt.ids) <= room - reserve
    if prompt.dropped:
        one_more = [*([("system", system)] if system else []), *history[prompt.dropped - 2 :], ("user", last)]
        assert len(prompt_of(*one_more).ids) > room - reserve


def test_a_very_long_chat_is_cut_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    render = module._render
    monkeypatch.setattr(module, "_render", lambda *arguments: rendered.append(1) or render(*arguments))
    history = [("user", "x" * 60), ("assistant", "y" * 60)] * 249
    prompt = prompt_of(("system", "s" * 100), *history, ("user", "z"), max_context=1000, answer_tokens=100)
    assert len(rendered) < 12  # the turns that are kept, one more, and the whole
    assert prompt.dropped == 2 * (249 - 6) and 700 < len(prompt.ids) <= 900
