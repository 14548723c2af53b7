"""The shape of a conversation: special tokens, roles, parts. Torch-free; `tokenizer/render.py` turns it into ids.

A conversation is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…" | parts}, …]};
parts is a list of {"type": "text" | "python" | "python_output", "text": "…"}. Other keys are the task's that it is of.

A document, which mixtures may hold beside conversations, is one message of the role `document`: it is learned whole.

In a file of conversations each line is one: {"messages": [...]}, or the list of messages alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nanochat_core.errors import DataError

SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
DOCUMENT = "document"
PART_TYPES = ("text", "python", "python_output")
PART_DELIMITERS = {
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}
ORDER_KEY, IN_SEQUENCE = b"nanochat.order", b"sequence"  # metadata of a parquet file whose rows are learned in order

SHOWN_PROBLEMS = 5


def parts_of(content: Any) -> list[dict[str, str]]:
    """Return a message's content as a list of parts: a string becomes one text part."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def as_json(value: Any) -> str:
    """Return a value as JSON that people can read; half a character, which JSON can spell, becomes a question mark.

    >>> as_json({"größe": "\\ud800"})
    '{"größe": "?"}'
    """
    return json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()


def parsed(data: bytes) -> Any:
    """Return the value that the bytes, of a line or a file, are the JSON of; raises DataError that says what is wrong.

    >>> parsed(b'{"role": "user"}')
    {'role': 'user'}
    """
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg}, column {error.colno})") from None
    except ValueError:  # Python's limit
        raise DataError("a number of thousands of digits, more than is read: take it out") from None
    except RecursionError:
        raise DataError("not a conversation, but lists in lists without end") from None


def document_of(text: str) -> dict[str, Any]:
    """Return a plain document in the shape of a conversation, so that both go the same way.

    >>> text_of_document(document_of("Once upon a time"))
    'Once upon a time'
    """
    return {"messages": [{"role": DOCUMENT, "content": text}]}


def text_of_document(conversation: dict[str, Any]) -> str | None:
    """Return the text of a plain document, or None for a conversation."""
    messages = conversation["messages"]
    return messages[0]["content"] if len(messages) == 1 and messages[0].get("role") == DOCUMENT else None


class Stretch(NamedTuple):
    """Part of a rendered conversation: one special token, or text."""

    text: str
    is_special: bool
    is_learned: bool


def stretches(conversation: dict[str, Any]) -> Iterator[Stretch]:
    """Yield what rendering writes, in words instead of ids: `tokenizer/render.py` learns the same.

    Raises DataError where the conversation has another shape than this module says.
    """
    document = text_of_document(conversation)
    yield Stretch("<|bos|>", True, False)
    if document is not None:
        yield Stretch(document, False, True)
        return
    for message in normalize(conversation["messages"]):
        if message["role"] == "user":
            yield from _stretch("<|user_start|>", message["content"], "<|user_end|>", is_learned=False)
            continue
        yield Stretch("<|assistant_start|>", True, False)
        for part in parts_of(message["content"]):
            start, end = PART_DELIMITERS.get(part["type"], ("", ""))
            yield from _stretch(start, part["text"], end, is_learned=part["type"] != "python_output")
        yield Stretch("<|assistant_end|>", True, True)


def _stretch(start: str, text: str, end: str, *, is_learned: bool) -> Iterator[Stretch]:
    for piece, is_special in ((start, True), (text, False), (end, True)):
        if piece:
            yield Stretch(piece, is_special, is_learned)


def normalize(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with a leading system message merged into the first user message (joined by a blank line).

    Raises DataError where roles do not alternate user, assistant, user, …, or a content has another shape.

    >>> normalize([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nHi'}]
    """
    if messages and messages[0].get("role") == "system":
        _check_content(messages[0].get("content"), 0, "system")
        if len(messages) < 2 or messages[1].get("role") != "user" or not isinstance(messages[1].get("content"), str):
            raise DataError("A system message must be followed by a user message of plain text.")
        merged = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        messages = [merged, *messages[2:]]
    if not messages:
        raise DataError("A conversation needs at least one message besides the system message.")
    for index, message in enumerate(messages):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.get("role") != expected:
            raise DataError(f"Message {index} has the role {message.get('role')!r}, expected {expected!r}.")
        _check_content(message.get("content"), index, expected)
    return messages


def _check_content(content: Any, index: int, role: str) -> None:
    if isinstance(content, str):
        return
    if role != "assistant" or not isinstance(content, list):
        raise DataError(f"Message {index} ({role}) has content of type {type(content).__name__}, expected text.")
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in PART_TYPES or not isinstance(part.get("text"), str):
            raise DataError(
                f"Message {index} has the part {part!r}; a part is {{type: {'|'.join(PART_TYPES)}, text: …}}."
            )


def read_jsonl_conversations(path: Path) -> list[dict[str, Any]]:
    """Return the conversations of a JSONL file, each {"messages": [...]}; blank lines are skipped.

    Raises DataError that names the file, and the line of everything that is wrong, the first few with their reasons.
    """
    conversations, problems = [], []
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Expected a JSONL file of conversations.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                conversations.append(_conversation_of(line))
            except DataError as error:
                problems.append(f"{path}:{number}: {error}")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = f"; and {more:,} more bad lines, of {len(conversations) + len(problems):,}" if more > 0 else ""
        raise DataError("; ".join(problems[:SHOWN_PROBLEMS]) + tail)
    if not conversations:
        raise DataError(f"{path} holds no conversations. Write one JSON object a line.")
    return conversations


def _conversation_of(line: bytes) -> dict[str, Any]:
    """Return the conversation on one line, checked; raises DataError that says what is wrong with it."""
    value = parsed(line)
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f'expected {{"messages": [{{"role": …, "content": …}}, …]}}, got {_shape_of(value)}')
    if len(normalize(messages)) < 2:
        raise DataError("a conversation needs a question and an answer, this one has 1 message")
    return {"messages": messages}


def _shape_of(value: Any) -> str:
    """Return in a few words what was on a line instead of a conversation."""
    if not isinstance(value, dict):
        return repr(value)[:80]
    hint = ' (rename: conversations to "messages", from to "role" user or assistant, value to "content")'
    return f"an object with the fields {', '.join(value) or 'none'}"[:120] + hint * ("conversations" in value)
