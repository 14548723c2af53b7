"""From the messages of a chat to the prompt's ids. Text that spells a special token stays text (`render.py`).

The model was trained on chats in which user and assistant take turns, a system message merged into the first one. So
neighbours of one role are joined, and system messages later on go into the user's next message. Where a chat is longer
than the context, its oldest turns (a question with its answer) are left out; the system message stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.serving.errors import invalid, too_long
from deployments.serving.schemas import ContentPart, Message
from nanochat_core.chat_format import parts_of
from nanochat_core.serve_spec import RequestLimits
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation, render_prompt

ANSWER_SHARE = 4  # of the context, at most a quarter is kept free for the answer by leaving turns out


@dataclass(frozen=True)
class Turn:
    """A question with its answer, if there is one yet; `count` of the client's messages went into it."""

    user: str
    assistant: list[dict[str, str]] | None
    count: int


@dataclass(frozen=True)
class ChatPrompt:
    """Ids that end where the assistant speaks, and how many of the client's messages were left out."""

    ids: tuple[int, ...]
    dropped: int = 0


def check_sizes(messages: Sequence[Message], limits: RequestLimits) -> None:
    """Raise ApiError where a chat is larger than this server takes."""
    if len(messages) > limits.messages:
        raise invalid(
            f"{len(messages)} messages; this server takes {limits.messages}.", "messages", "too_many_messages"
        )
    total = 0
    for index, message in enumerate(messages):
        size = sum(len(part["text"]) for part in parts(message))
        total += size
        if size > limits.message_characters:
            place = f"messages[{index}].content"
            text = f"{place} has {size} characters; this server takes {limits.message_characters}."
            raise invalid(text, place, "string_above_max_length")
    if total > limits.total_characters:
        text = f"The messages have {total} characters together; this server takes {limits.total_characters}."
        raise invalid(text, "messages", "string_above_max_length")


def parts(message: Message) -> list[dict[str, str]]:
    """Return a message's content as parts."""
    content: str | list[ContentPart] = message.content
    if message.role == "assistant" and message.nanochat_parts:
        content = message.nanochat_parts
    if isinstance(content, str):
        return parts_of(content)
    return [{"type": part.type, "text": part.text} for part in content]


def turns_of(messages: Sequence[Message]) -> tuple[str, list[Turn]]:
    """Return (system text, turns). Raises ApiError where nobody asks, or the assistant speaks first."""
    system, user, assistant, count = [], [], None, 0
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        found = parts(message)
        if message.role == "assistant":
            if not user:
                raise invalid("A chat begins with the user's message.", f"messages[{index}].role")
            assistant = [*(assistant or []), *found]
            count += 1
            continue
        if any(part["type"] != "text" for part in found):
            raise invalid("Only the assistant's messages have tool parts.", f"messages[{index}].content")
        text = "\n".join(part["text"] for part in found)
        if message.role != "user" and not user:
            system.append(text)
            continue
        if assistant is not None:
            turns.append(Turn("\n\n".join(user), assistant, count))
            user, assistant, count = [], None, 0
        user.append(text)
        count += 1
    if not user:
        raise invalid("A chat needs a message of the user.", "messages")
    return "\n\n".join(system), [*turns, Turn("\n\n".join(user), assistant, count)]


def chat_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], *, max_context: int, answer_tokens: int
) -> ChatPrompt:
    """Return the prompt, with room for the answer: as many tokens as asked for, or a quarter of the context.

    Where even the last turn leaves less room, it has to do; raises ApiError where it leaves none.
    """
    system, turns = turns_of(messages)
    room = max_context - min(answer_tokens, max_context // ANSWER_SHARE)
    kept = _first_kept(tokenizer, system, turns, room)
    ids = _render(tokenizer, system, turns[kept:])
    while len(ids) > room and kept < len(turns) - 1:  # what a merge across the border added
        kept += 1
        ids = _render(tokenizer, system, turns[kept:])
    if len(ids) >= max_context:
        raise too_long(max_context, len(ids), "messages")
    return ChatPrompt(tuple(ids), sum(turn.count for turn in turns[:kept]))


def _first_kept(tokenizer: Tokenizer, system: str, turns: Sequence[Turn], room: int) -> int:
    """Return the index of the oldest turn that still fits, by the turns' own lengths; the last one always counts."""
    used = len(tokenizer.encode(f"{system}\n\n")) if system else 0
    kept = len(turns)
    for index in reversed(range(len(turns))):
        used += len(_render(tokenizer, "", turns[index : index + 1]))
        if used > room and kept < len(turns):
            break
        kept = index
    return kept


def _render(tokenizer: Tokenizer, system: str, turns: Sequence[Turn]) -> list[int]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.user})
        if turn.assistant is not None:
            messages.append({"role": "assistant", "content": turn.assistant})
    if turns[-1].assistant is None:
        return render_prompt(tokenizer, {"messages": messages})
    ids, _ = render_conversation(tokenizer, {"messages": messages})
    return ids[:-1]  # without its end, so that the assistant goes on
