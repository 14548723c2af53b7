"""What was said in a conversation of another format, piece by piece, and the conversation of ours that it makes.

Importers (`conversation_formats.py`, `harmony.py`) reduce each format to a list of `Said`; here the rules of ours are
met: one system message, in front; users and assistant in turns; calls of the tool and what it returned as parts of the
assistant's message. Torch-free.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from nanochat_core.chat_format import normalize
from nanochat_core.errors import DataError

Kind = Literal["system", "user", "text", "python", "python_output"]
PARTS: tuple[Kind, ...] = ("text", "python", "python_output")  # of what the assistant says; the others are turns


class Said(NamedTuple):
    """One piece: a system message, what a user said, or a part of an answer (its kind is the part's type)."""

    kind: Kind
    text: str


def conversation_of_turns(said: Sequence[Said]) -> dict[str, Any]:
    """Return {"messages": [...]}; neighbours of one kind are joined by a blank line.

    Raises DataError where a system message is not in front, where a tool answers that was not called, or where there
    is no question with an answer.

    >>> conversation_of_turns([Said("user", "Hi"), Said("user", "You?"), Said("text", "Hello!")])
    {'messages': [{'role': 'user', 'content': 'Hi\\n\\nYou?'}, {'role': 'assistant', 'content': 'Hello!'}]}
    """
    messages = []
    for role, group in groupby(said, key=lambda piece: "assistant" if piece.kind in PARTS else piece.kind):
        pieces = list(group)
        if role == "system" and messages:
            raise DataError(f"Message {len(messages)} is a system message: expected in front only.")
        content = _answer(pieces) if role == "assistant" else _joined(pieces)
        messages.append({"role": role, "content": content})
    normalize(messages)
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("a conversation needs a question and an answer, this one has no answer")
    return {"messages": messages}


def _joined(pieces: Iterable[Said]) -> str:
    """Return the texts, a blank line between them; half a character, which JSON can spell, becomes a question mark."""
    return "\n\n".join(piece.text for piece in pieces).encode(errors="replace").decode()


def _answer(pieces: list[Said]) -> str | list[dict[str, str]]:
    """Return the content of an answer: a string where the tool was not called, else parts."""
    runs = [(kind, list(run)) for kind, run in groupby(pieces, key=lambda piece: piece.kind)]
    if [kind for kind, _ in runs] == ["text"]:
        return _joined(pieces)
    parts: list[dict[str, str]] = []
    for kind, run in runs:
        if kind == "python_output" and (not parts or parts[-1]["type"] != "python"):
            raise DataError("a tool answers that was not called: expected a call of the assistant before it")
        if kind == "text":
            parts.append({"type": kind, "text": _joined(run)})
        else:  # two calls are two parts
            parts += [{"type": kind, "text": _joined([piece])} for piece in run]
    return [part for part in parts if part["type"] != "text" or part["text"]]
