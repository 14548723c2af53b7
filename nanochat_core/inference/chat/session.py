"""A conversation with somebody who answers in pieces: what has been said, and how it goes on. Torch-free.

Whoever answers is a `Talker`: the engine in this process (`chat_local.py`) or a server (`chat_remote.py`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from nanochat_core import artifacts
from nanochat_core.chat_format import normalize, parts_of
from nanochat_core.errors import ArtifactError, DataError, NanochatError
from nanochat_core.inference.chat.spec import AnswerSettings
from nanochat_core.inference.interface import Part

Message = dict[str, Any]  # {"role": "user" | "assistant", "content": str | list of parts}


@dataclass(frozen=True)
class Said:
    """A piece of the answer: the model's text, a tool call, or the tool's output."""

    kind: Literal["text", "python", "python_output"]
    text: str


@dataclass(frozen=True)
class Note:
    """Something about the answer that is no part of it."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The answer is whole: "stop", or cut at its longest ("length")."""

    reason: str


ChatEvent = Said | Note | Ended


class TalkFailed(NanochatError):
    """The engine or the server broke; nothing is wrong with what was asked."""

    exit_code = 1


class Talker(Protocol):
    """Somebody who answers."""

    name: str

    def answer(self, messages: Sequence[Message], settings: AnswerSettings) -> Iterator[ChatEvent]:
        """Yield the answer to the last message as it comes. Closing the iterator stops it, as does KeyboardInterrupt.

        Raises NanochatError for what the user can mend, TalkFailed where the other side broke.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass
class ChatSession:
    """What has been said so far: each message of the user is followed by an answer. The system message is a setting."""

    talker: Talker
    settings: AnswerSettings
    messages: list[Message] = field(default_factory=list)
    attempts: int = 0  # answers to the last message before the present one

    def ask(self, text: str) -> Iterator[ChatEvent]:
        """Say something and yield the answer. What came of it stays in the conversation, even if it was cut short."""
        self.messages.append({"role": "user", "content": text})
        self.attempts = 0
        return self._answer()

    def retry(self) -> Iterator[ChatEvent]:
        """Yield another answer to the last message. Raises DataError where there is none."""
        if not self.messages:
            raise DataError("Nothing has been said yet that could be answered again.")
        earlier = self.messages.pop()
        self.attempts += 1
        return self._answer(earlier)

    def _answer(self, earlier: Message | None = None) -> Iterator[ChatEvent]:
        """Yield an answer to the last message; where nothing comes of it, the earlier one stays."""
        parts: list[Part] = []
        settings = self.settings
        if settings.seed is not None:
            settings = settings.changed(seed=settings.seed + self.attempts)
        try:
            for event in self.talker.answer(self.messages, settings):
                if isinstance(event, Said):
                    add_piece(parts, event)
                yield event
        finally:  # also where the user stopped it, or the other side broke
            if parts:
                self.messages.append({"role": "assistant", "content": parts})
            elif earlier:
                self.messages.append(earlier)
            else:
                self.messages.pop()  # the turns must alternate: what was not answered was not said

    def forget(self) -> None:
        """Begin a new conversation."""
        self.messages.clear()

    def save(self, path: Path) -> None:
        """Write the conversation as JSON. Raises DataError rather than overwrite a file that is none."""
        if path.exists():
            read_conversation(path)
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        try:
            artifacts.write_json(path, {"messages": [*system, *self.messages]})
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}.") from None

    def load(self, path: Path) -> None:
        """Go on with a conversation from a file; raises DataError where it holds none."""
        messages = read_conversation(path)
        system = ""
        if messages and messages[0]["role"] == "system":
            system = str(messages[0]["content"])
            messages = messages[1:]
        self.settings = self.settings.changed(system=system)
        self.messages = messages[: len(messages) // 2 * 2]  # a last question without an answer was not said


def dropped_note(count: int) -> Note:
    """Return what the user is told where the context was too short."""
    return Note(f"The conversation is longer than the model's context: its first {count} messages are left out.")


def add_piece(parts: list[Part], piece: Said) -> None:
    """Append a piece to the parts that it belongs to."""
    if not piece.text:
        return
    if parts and parts[-1]["type"] == piece.kind:
        parts[-1]["text"] += piece.text
    else:
        parts.append({"type": piece.kind, "text": piece.text})


def text_of(content: str | Sequence[Part]) -> str:
    """Return what a message says, tool calls and their output left out."""
    return "".join(part["text"] for part in parts_of(content) if part["type"] == "text")


def read_conversation(path: Path) -> list[Message]:
    """Return the messages in a file, the system's first; raises DataError where it is no conversation."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        messages = value["messages"]
        if messages:
            normalize([*messages, {"role": "user", "content": ""}] if len(messages) == 1 else messages)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArtifactError):
        raise DataError(f'{path} holds no conversation: expected {{"messages": [...]}} as /save writes it.') from None
    return list(messages)
