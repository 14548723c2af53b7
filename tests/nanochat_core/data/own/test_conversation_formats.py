"""Conversations in other people's formats: what each becomes, and what cannot be learned is said."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.chat_format import normalize, parts_of
from nanochat_core.data.own.conversation_formats import FORMATS, OURS, imported
from nanochat_core.data.own.harmony import conversations_in
from nanochat_core.errors import DataError

ASKED = {"role": "user", "content": "What is 12*7?"}
ANSWERED = {"role": "assistant", "content": "It is 84."}
WITH_TOOL = {
    "role": "assistant",
    "content": [
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "It is 84."},
    ],
}
BRIEF = {"role": "system", "content": "Be brief."}


def call(arguments: Any = '{"expression": "12*7"}', name: str = "calculator") -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def turn(who: str, value: Any) -> dict[str, Any]:
    return {"from": who, "value": value}


HARMONY = (
    "<|start|>system<|message|>You are a model.\nReasoning: low<|end|>"
    "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n# Tools\n\n## functions\nnamespace functions {}<|end|>"
    "<|start|>user<|message|>What is 12*7?<|end|>"
    "<|start|>assistant<|channel|>analysis<|message|>A product.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.calc <|constrain|>json"
    '<|message|>{"expression": "12*7"}<|call|>'
    "<|start|>functions.calc to=assistant<|channel|>commentary<|message|>84<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It is 84.<|return|>"
)
MADE = {  # (format, value): the messages that it makes
    "ours": (OURS, {"messages": [ASKED, WITH_TOOL], "source": "x"}, [ASKED, WITH_TOOL]),
    "ours, bare": (OURS, [BRIEF, ASKED, ANSWERED], [BRIEF, ASKED, ANSWERED]),
    "openai, text parts and a developer": (
        "OpenAI messages",
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "12*7?"}]},
                {"role": "assistant", "content": "It is 84.", "weight": 1},
            ]
        },
        [BRIEF, ASKED, ANSWERED],
    ),
    "openai, tool": (
        "OpenAI messages",
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": None, "tool_calls": [call()]},
                {"role": "tool", "tool_call_id": "1", "content": "84"},
                ANSWERED,
            ],
            "tools": [{"type": "function"}],
        },
        [ASKED, WITH_TOOL],
    ),
    "openai, function": (
        "OpenAI messages",
        [
            ASKED,
            {"role": "assistant", "content": "", "function_call": {"name": "c", "arguments": {"expression": "12*7"}}},
            {"role": "function", "name": "c", "content": "84"},
            ANSWERED,
        ],
        [ASKED, WITH_TOOL],
    ),
    "openai, refusal": (
        "OpenAI messages",
        [ASKED, {"role": "assistant", "content": None, "refusal": "It is 84."}],
        [ASKED, ANSWERED],
    ),
    "openai, two questions": (
        "OpenAI messages",
        [{"role": "user", "content": "Hi"}, ASKED, ANSWERED],
        [{"role": "user", "content": "Hi\n\nWhat is 12*7?"}, ANSWERED],
    ),
    "sharegpt": (
        "ShareGPT",
        {
            "id": "a",
            "conversations": [turn("system", "Be brief."), turn("human", "What is 12*7?"), turn("gpt", "It is 84.")],
        },
        [BRIEF, ASKED, ANSWERED],
    ),
    "sharegpt, tool": (
        "ShareGPT",
        {
            "conversations": [
                turn("human", "What is 12*7?"),
                turn("function_call", json.dumps({"name": "c", "arguments": {"expression": "12*7"}})),
                turn("observation", "84"),
                turn("gpt", "It is 84."),
            ],
            "system": "Be brief.",
            "tools": "[]",
        },
        [BRIEF, ASKED, WITH_TOOL],
    ),
    "alpaca": (
        "Alpaca",
        {"instruction": "What is 12*7?", "input": "", "output": "It is 84.", "text": "Below is an instruction"},
        [ASKED, ANSWERED],
    ),
    "alpaca, input, system and history": (
        "Alpaca",
        {"instruction": "Spell.", "input": "ox", "output": "o,x", "system": "Be brief.", "history": [["Hi", "Hello!"]]},
        [
            BRIEF,
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Spell.\n\nox"},
            {"role": "assistant", "content": "o,x"},
        ],
    ),
    "dolly": (
        "Dolly",
        {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada.", "category": "closed_qa"},
        [{"role": "user", "content": "Who?\n\nAda wrote it."}, {"role": "assistant", "content": "Ada."}],
    ),
    "harmony": ("Harmony", {"text": HARMONY}, [BRIEF, ASKED, WITH_TOOL]),
    "harmony, bare and with a preamble": (
        "Harmony",
        "<|start|>user<|message|>Hi<|end|>\n<|start|>assistant<|channel|>commentary<|message|>Well.<|end|>"
        "<|start|>assistant<|message|>Hello!<|return|>\n",
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well.\n\nHello!"}],
    ),
}


@pytest.mark.parametrize("case", MADE)
def test_each_format_becomes_ours(case: str) -> None:
    name, value, messages = MADE[case]
    assert imported(value) == (name, {"messages": messages})
    assert normalize(messages)


def test_every_format_has_a_case() -> None:
    assert {name for name, _, _ in MADE.values()} == {OURS, *FORMATS}


REFUSED = {
    "3": (3, "expected an object, got 3"),
    "no format": ({"question": "Hi", "answer": "Hello!"}, "fields question, answer: expected messages, conversations"),
    "plain text": ("Hi", "expected messages"),
    "no answer": ([ASKED], "this one has no answer"),
    "nothing": ({"messages": []}, "at least one message"),
    "an answer first": ([ANSWERED, ASKED], "Message 0 has the role 'assistant', expected 'user'"),
    "a system message inside": ([ASKED, ANSWERED, BRIEF, ASKED], "Message 2 is a system message"),
    "a role of their own": ([ASKED, {"role": "judge", "content": "x"}], "Message 1 (judge): expected the role"),
    "an image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWERED],
        "Message 0 (user) has parts of type image_url: only text can be learned",
    ),
    "no content": ([ASKED, {"role": "assistant", "content": None}], "content of type NoneType"),
    "not learned": ([ASKED, {**ANSWERED, "weight": 0}], "Message 1 (assistant) has weight 0"),
    "two arguments": (
        [ASKED, {"role": "assistant", "tool_calls": [call('{"a": "1", "b": "2"}', "weather")]}],
        "the tool 'weather' is called with",
    ),
    "an argument that is no text": (
        [ASKED, {"role": "assistant", "tool_calls": [call({"n": 2})]}],
        "only a call with one text",
    ),
    "an answer to no call": (
        [ASKED, {"role": "tool", "content": "84"}, ANSWERED],
        "a tool answers that was not called",
    ),
    "turns that are none": ({"conversations": "Hi"}, "conversations: expected a list of objects"),
    "a speaker of their own": ({"conversations": [turn("owl", "Hu")]}, "Turn 0 (owl): expected from human, gpt"),
    "a call that is none": ({"conversations": [turn("human", "a"), turn("function_call", "x")]}, "expected a call"),
    "an output that is no text": ({"instruction": "a", "output": 3}, "output has content of type int"),
    "a history of one": ({"instruction": "a", "output": "b", "history": [["c"]]}, "expected [[question, answer], …]"),
    "a history that is none": ({"instruction": "a", "output": "b", "history": 3}, "history: 3, expected [[question"),
    "harmony that is cut": (HARMONY[:-10], "the last message does not end"),
    "harmony and more": ("Hello " + HARMONY, "text outside a message: 'Hello'"),
    "harmony of nobody": ("<|start|> <|message|>a<|end|>", "names nobody"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_said(case: str) -> None:
    value, reason = REFUSED[case]
    with pytest.raises(DataError) as caught:
        imported(value)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "conversations", "from", "value", "instruction", "output"]),
            inner | st.sampled_from(["user", "assistant", "human", "gpt", "tool"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(JSON)
def test_whatever_stands_on_a_line_it_is_a_conversation_or_a_reason(value: Any) -> None:
    try:
        _, conversation = imported(value)
    except DataError:
        return
    assert len(normalize(conversation["messages"])) > 1
    assert imported(conversation) == (OURS, conversation)


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_nothing_that_is_said_is_lost_or_changed(pairs: list[tuple[str, str]]) -> None:
    turns = [turn(who, text) for pair in pairs for who, text in zip(("human", "gpt"), pair, strict=True)]
    _, conversation = imported({"conversations": turns})
    said = ["".join(part["text"] for part in parts_of(message["content"])) for message in conversation["messages"]]
    assert said == [text for pair in pairs for text in pair]


def test_half_a_character_becomes_a_question_mark() -> None:
    _, conversation = imported({"instruction": "\ud83d?", "output": "b"})
    assert conversation["messages"][0]["content"] == "??"


def test_a_text_of_many_conversations_is_cut_where_they_end() -> None:
    pieces = list(conversations_in(f"{HARMONY}\n\n{HARMONY}{HARMONY}"))
    assert [line for line, _ in pieces] == [1, 11, 19]
    assert all(imported(text)[1] == imported(HARMONY)[1] for _, text in pieces)


def test_a_system_message_in_parts_is_read_as_its_text() -> None:
    in_parts = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert imported({"messages": [in_parts, ASKED, ANSWERED]})[1]["messages"][0] == BRIEF
