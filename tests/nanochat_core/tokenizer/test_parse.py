"""What holds for any conversation: its mask, and that reading what was rendered gives it back."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.chat_format import SPECIAL_TOKENS, Stretch, document_of, normalize, parts_of, stretches
from nanochat_core.errors import DataError
from nanochat_core.tokenizer.parse import parse_conversation, runs
from nanochat_core.tokenizer.render import render_conversation, render_prompt, render_row
from tests.parity.golden_tokenizer import golden_conversations, golden_tokenizer

TOKENIZER = golden_tokenizer()
TEXT = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<|", " ", "\n\n", "12*7", "🙂", "e\u0301", "Hello"])
    | st.text(st.characters(codec="utf-8"), max_size=4),
    max_size=5,
).map("".join)
PARTS = st.lists(
    st.builds(
        lambda kind, text: {"type": kind, "text": text}, st.sampled_from(["text", "python", "python_output"]), TEXT
    ),
    max_size=5,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages in turns, a system message or none before them; it ends with a question or an answer."""
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXT)})
    for index in range(draw(st.integers(1, 5))):
        content = draw(TEXT if index % 2 == 0 else TEXT | PARTS)
        messages.append({"role": ("user", "assistant")[index % 2], "content": content})
    return messages


def as_read(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as they are read again: the system's words in the first question, texts side by side as one."""
    return [
        {
            **message,
            "content": joined(parts_of(message["content"])) if message["role"] == "assistant" else message["content"],
        }
        for message in normalize(messages)
    ]


def joined(parts: list[dict[str, str]]) -> str | list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for kind, group in groupby(parts, key=lambda part: part["type"]):
        texts = [part["text"] for part in group]
        texts = ["".join(texts)] if kind == "text" else texts
        found += [{"type": kind, "text": text} for text in texts if text or kind != "text"]
    if all(part["type"] == "text" for part in found):
        return "".join(part["text"] for part in found)
    return found


@settings(max_examples=150)
@given(conversations())
def test_reading_what_was_rendered_gives_the_messages_back(messages: list[dict[str, Any]]) -> None:
    ids, mask = render_conversation(TOKENIZER, {"messages": messages})
    assert len(ids) == len(mask) and set(mask) <= {0, 1}
    assert parse_conversation(TOKENIZER, ids) == as_read(messages)


def learned_by_rule(ids: list[int]) -> list[int]:
    """Return the mask, from the ids alone: all of an answer but its first token and what the tool returned."""
    name_of = {TOKENIZER.special(name): name for name in SPECIAL_TOKENS}
    mask, in_answer, in_output = [], False, False
    for token in ids:
        name = name_of.get(token)
        in_output = in_output or name == "<|output_start|>"
        mask.append(int(in_answer and not in_output))
        in_answer = (in_answer or name == "<|assistant_start|>") and name != "<|assistant_end|>"
        in_output = in_output and name != "<|output_end|>"
    return mask


@settings(max_examples=150)
@given(conversations())
def test_no_question_and_no_output_of_the_tool_is_ever_learned_and_all_else_of_an_answer_is(
    messages: list[dict[str, Any]],
) -> None:
    ids, mask = render_conversation(TOKENIZER, {"messages": messages})
    assert mask == learned_by_rule(ids)


@settings(max_examples=50)
@given(conversations())
def test_a_prompt_has_nothing_that_is_learned_after_the_last_answer(messages: list[dict[str, Any]]) -> None:
    prompt = render_prompt(TOKENIZER, {"messages": messages})
    ids, mask = render_conversation(TOKENIZER, {"messages": messages})
    if messages[-1]["role"] == "assistant":
        assert ids[: len(prompt)] == prompt and mask[len(prompt) - 1] == 0 and all(mask[-1:])
    else:
        assert prompt == [*ids, TOKENIZER.special("<|assistant_start|>")]


def test_the_golden_conversations_are_read_back() -> None:
    golden = golden_conversations()
    assert golden
    for conversation in golden:
        messages = conversation["conversation"]["messages"]
        assert parse_conversation(TOKENIZER, render_conversation(TOKENIZER, {"messages": messages})[0]) == as_read(
            messages
        )


def ids_of(*pieces: str) -> list[int]:
    return [token for piece in pieces for token in one(piece)]


def one(piece: str) -> list[int]:
    return [TOKENIZER.special(piece)] if piece in SPECIAL_TOKENS else TOKENIZER.encode(piece)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (("Hi",), "do not begin with"),
        (("<|bos|>", "Hi"), "expected the start of a turn"),
        (("<|bos|>", "<|user_start|>", "Hi"), r"Expected <\|user_end\|> after 'Hi', got None"),
        (("<|bos|>", "<|assistant_start|>", "Hi"), "does not end"),
        (("<|bos|>", "<|assistant_start|>", "<|user_end|>"), r"<\|user_end\|> stands inside an answer"),
        (("<|bos|>", "<|assistant_start|>", "<|python_start|>", "<|output_end|>"), r"Expected <\|python_end\|>"),
    ],
)
def test_ids_that_no_conversation_renders_to_are_refused(pieces: tuple[str, ...], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_conversation(TOKENIZER, ids_of(*pieces))


def joined_texts(found: Iterable[Stretch]) -> list[Stretch]:
    """Return the stretches with texts that stand side by side as one."""
    merged: list[Stretch] = []
    for stretch in found:
        if merged and not stretch.is_special and not merged[-1].is_special:
            merged[-1] = merged[-1]._replace(text=merged[-1].text + stretch.text)
        else:
            merged.append(stretch)
    return merged


@settings(max_examples=100)
@given(conversations())
def test_in_words_the_same_is_learned_as_in_ids(messages: list[dict[str, Any]]) -> None:
    rendered = runs(TOKENIZER, *render_conversation(TOKENIZER, {"messages": messages}))
    assert joined_texts(stretches({"messages": messages})) == list(rendered)


def test_a_document_is_learned_but_for_its_first_token() -> None:
    expected = [("<|bos|>", True, False), ("Once <|bos|>", False, True)]
    assert list(runs(TOKENIZER, *render_row(TOKENIZER, document_of("Once <|bos|>")))) == expected
    assert list(stretches(document_of("Once <|bos|>"))) == expected


def test_runs_are_the_stretches_that_are_learned_and_those_that_are_not() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello you!"}]
    assert list(runs(TOKENIZER, *render_conversation(TOKENIZER, {"messages": messages}))) == [
        ("<|bos|>", True, False),
        ("<|user_start|>", True, False),
        ("Hi", False, False),
        ("<|user_end|>", True, False),
        ("<|assistant_start|>", True, False),
        ("Hello you!", False, True),
        ("<|assistant_end|>", True, True),
    ]
