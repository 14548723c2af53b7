"""Conversations in the formats that people have, one JSON value each, as conversations of ours. Torch-free.

| format | how it is recognised |
|---|---|
| ours, OpenAI messages | `messages`: [{role, content, tool_calls?}], or the list alone |
| ShareGPT | `conversations`: [{from, value}], `system`? |
| Alpaca | `instruction`, `input`?, `output`; `system`? and `history`? ([[question, answer], …]) |
| Dolly | `instruction`, `context`?, `response` |
| Harmony-rendered text | `text`, or the text alone, with <|start|> and <|message|> in it |

Each line of a file is recognised by itself.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from nanochat_core.chat_format import normalize
from nanochat_core.data.own.harmony import is_harmony, said_in_harmony
from nanochat_core.data.own.tool_calls import called
from nanochat_core.data.own.turns import Said, conversation_of_turns
from nanochat_core.errors import DataError

Value = dict[str, Any]
OURS = "ours"
BEYOND_OURS = ("tool_calls", "function_call", "weight", "refusal")  # fields of a message that mean something
SYSTEM, USER, ASSISTANT = ("system", "developer"), ("user", "human"), ("assistant", "gpt", "chatgpt", "bing", "bard")
TOOL, CALL = ("tool", "function", "observation"), ("function_call", "tool_call")
SHOWN_FIELDS = 120  # characters of their names in a message


def imported(value: Any) -> tuple[str, Value]:
    """Return (name of the format, {"messages": [...]}) of one JSON value; ours are returned as they are.

    Raises DataError that says what is wrong with it.

    >>> imported({"instruction": "Say hi.", "input": "", "output": "Hi!"})[1]["messages"][1]
    {'role': 'assistant', 'content': 'Hi!'}
    """
    if isinstance(value, list):
        value = {"messages": value}
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise DataError(f"expected an object, got {value!r}"[:100])
    if is_ours(value):
        return OURS, {"messages": value["messages"]}
    for name, (is_it, said_in) in FORMATS.items():
        if is_it(value):
            return name, conversation_of_turns(list(said_in(value)))
    fields = ", ".join(map(str, value)) or "none"
    raise DataError(
        f"an object with the fields {fields[:SHOWN_FIELDS]}: expected messages, conversations (ShareGPT), instruction "
        "and output (Alpaca), instruction and response (Dolly), or text rendered by Harmony"
    )


def is_ours(value: Value) -> bool:
    """Return whether this is a conversation in our own form, with a question and an answer."""
    messages = value.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return False
    if any(message.get(field) is not None for message in messages for field in BEYOND_OURS):
        return False
    try:
        return len(normalize(messages)) > 1
    except DataError:
        return False


def _said_in_messages(value: Value) -> Iterator[Said]:
    for index, message in enumerate(_objects(value["messages"], "messages")):
        role, content = message.get("role"), message.get("content")
        where = f"Message {index} ({role})"
        if message.get("weight") == 0:
            raise DataError(f"{where} has weight 0: an answer that is not learned cannot be kept apart; cut it off.")
        if role in SYSTEM or role in USER:
            yield Said("system" if role in SYSTEM else "user", _text(content, where))
        elif role in TOOL:
            yield Said("python_output", _text(content, where))
        elif role in ASSISTANT:
            yield from _said_by_assistant(message, where)
        else:
            raise DataError(f"{where}: expected the role system, developer, user, assistant or tool.")


def _said_by_assistant(message: Value, where: str) -> Iterator[Said]:
    calls = [call.get("function") for call in _objects(message.get("tool_calls") or [], f"{where}: tool_calls")]
    calls += [message["function_call"]] if message.get("function_call") else []
    content = message.get("content")
    if isinstance(content, list) and any(part.get("type") in ("python", "python_output") for part in _objects(content)):
        yield from (Said(part["type"], _text(part.get("text"), where)) for part in content)
    elif content is not None or not (calls or message.get("refusal")):
        text = _text(content, where)
        if text or not calls:
            yield Said("text", text)
    if message.get("refusal"):
        yield Said("text", _text(message["refusal"], where))
    for call in _objects(calls, f"{where}: calls"):
        yield Said("python", called(str(call.get("name")), call.get("arguments")))


def _text(content: Any, where: str) -> str:
    """Return a content that is a string, or a list of texts; raises DataError for images, sound and the like."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [part.get("text") for part in _objects(content, where) if part.get("type", "text") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(texts)
        kinds = sorted({str(part.get("type")) for part in content} - {"text"})
        raise DataError(f"{where} has parts of type {', '.join(kinds)}: only text can be learned.")
    raise DataError(f"{where} has content of type {type(content).__name__}, expected text.")


def _objects(values: Any, what: str = "parts") -> list[Value]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{what}: expected a list of objects, got {values!r}"[:160])
    return values


def _said_in_sharegpt(value: Value) -> Iterator[Said]:
    if value.get("system"):
        yield Said("system", _text(value["system"], "system"))
    for index, turn in enumerate(_objects(value["conversations"], "conversations")):
        role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        where = f"Turn {index} ({role})"
        if role in CALL:
            call = text if isinstance(text, dict) else _json_object(text, where)
            yield Said("python", called(str(call.get("name")), call.get("arguments")))
        elif role in TOOL:
            yield Said("python_output", _text(text, where))
        elif role in SYSTEM or role in USER:
            yield Said("system" if role in SYSTEM else "user", _text(text, where))
        elif role in ASSISTANT:
            yield Said("text", _text(text, where))
        else:
            raise DataError(f"{where}: expected from human, gpt, system, function_call or observation.")


def _json_object(text: Any, where: str) -> Value:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise DataError(f'{where}: expected a call, {{"name": …, "arguments": …}}, got {text!r}'[:160])
    return value


def _said_in_alpaca(value: Value) -> Iterator[Said]:
    if value.get("system"):
        yield Said("system", _text(value["system"], "system"))
    history = value.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"history: {pair!r}, expected [[question, answer], …]"[:160])
        yield Said("user", _text(pair[0], "history"))
        yield Said("text", _text(pair[1], "history"))
    yield from _question_and_answer(value, "input", "output")


def _said_in_dolly(value: Value) -> Iterator[Said]:
    return _question_and_answer(value, "context", "response")


def _question_and_answer(value: Value, given: str, answer: str) -> Iterator[Said]:
    """Yield the instruction, with what is given to it after a blank line, and the answer."""
    yield Said("user", _text(value["instruction"], "instruction"))
    if value.get(given):
        yield Said("user", _text(value[given], given))
    yield Said("text", _text(value[answer], answer))


def _has(*fields: str) -> Callable[[Value], bool]:
    return lambda value: all(field in value for field in fields)


FORMATS: dict[str, tuple[Callable[[Value], bool], Callable[[Value], Iterator[Said]]]] = {
    "OpenAI messages": (_has("messages"), _said_in_messages),
    "ShareGPT": (_has("conversations"), _said_in_sharegpt),
    "Alpaca": (_has("instruction", "output"), _said_in_alpaca),
    "Dolly": (_has("instruction", "response"), _said_in_dolly),
    "Harmony": (lambda value: is_harmony(value.get("text")), lambda value: iter(said_in_harmony(value["text"]))),
}
