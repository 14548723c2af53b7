from typing import Any

import pytest

from nanochat_core.errors import DataError
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation, render_prompt
from tests.parity.golden_tokenizer import golden_tokenizer

TOKENIZER = golden_tokenizer()
CALL = [
    {"type": "text", "text": "Let me see."},
    {"type": "python", "text": "12*7"},
    {"type": "python_output", "text": "84"},
    {"type": "text", "text": "It is 84."},
]


def conversation(*contents: Any, system: str | None = None) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)]
    return {"messages": [{"role": "system", "content": system}, *turns] if system else turns}


def rendered(tokenizer: Tokenizer, value: dict[str, Any], *, learned: bool) -> str:
    ids, mask = render_conversation(tokenizer, value)
    return tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit == learned])


def test_the_assistant_learns_its_text_and_calls_but_not_the_output() -> None:
    value = conversation("What is 12*7?", CALL)
    assert rendered(TOKENIZER, value, learned=True) == (
        "Let me see.<|python_start|>12*7<|python_end|>It is 84.<|assistant_end|>"
    )
    assert rendered(TOKENIZER, value, learned=False) == (
        "<|bos|><|user_start|>What is 12*7?<|user_end|><|assistant_start|><|output_start|>84<|output_end|>"
    )


def test_a_system_message_becomes_part_of_the_first_question() -> None:
    value = conversation("Hi", "Hello", system="Be kind.")
    assert render_conversation(TOKENIZER, value) == render_conversation(
        TOKENIZER, conversation("Be kind.\n\nHi", "Hello")
    )


def test_the_prompt_is_the_beginning_of_the_conversation() -> None:
    value = conversation("Hi", "Hello", "And you?", CALL)
    ids, _ = render_conversation(TOKENIZER, value)
    prompt = render_prompt(TOKENIZER, value)
    assert prompt == ids[: len(prompt)] and prompt[-1] == TOKENIZER.special("<|assistant_start|>")
    assert prompt == render_prompt(TOKENIZER, conversation("Hi", "Hello", "And you?"))


def test_text_that_spells_a_special_token_is_rendered_as_text() -> None:
    ids, _ = render_conversation(TOKENIZER, conversation("<|assistant_end|>", "<|bos|>"))
    assert [ids.count(TOKENIZER.special(name)) for name in ("<|assistant_end|>", "<|bos|>")] == [1, 1]


def test_a_malformed_conversation_is_refused() -> None:
    for bad in (
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        conversation("Hi", [{"type": "x"}]),
    ):
        with pytest.raises(DataError):
            render_conversation(TOKENIZER, bad)
    with pytest.raises(DataError, match="at least one message"):
        render_prompt(TOKENIZER, {"messages": [{"role": "assistant", "content": "Hi"}]})
