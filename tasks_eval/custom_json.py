"""CustomJSON: conversations of your own, one JSON object {"messages": [...]} (or a bare list of messages) a line."""

import json
from pathlib import Path
from typing import Any

from nanochat_core.chat_format import normalize
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.hub import TaskData
from tasks_eval.task import Split, Task


def make(data: TaskData, split: Split) -> Task:
    """The files of the data set `custom`; not graded."""
    examples = [example for path in data.files("custom", split) for example in read_conversations(path)]
    return Task("CustomJSON", "generative", split, len(examples), examples.__getitem__)


def read_conversations(path: Path) -> list[Conversation]:
    """Return the conversations of a JSONL file; raises DataError that names file and line for the first bad one."""
    conversations: list[Conversation] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read {path}: {error}. A custom data set is UTF-8 text, one JSON object a line."
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            conversations.append(_conversation(line, f"{path}:{number}"))
    if not conversations:
        raise DataError(f"{path} holds no conversations. Write one JSON object a line.")
    return conversations


def _conversation(line: str, place: str) -> Conversation:
    """Return the conversation on one line, checked; errors begin with `place`."""
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({error}).") from error
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f'{place}: expected {{"messages": [{{"role": …, "content": …}}, …]}}, got {line[:80]!r}.')
    try:
        checked = normalize(messages)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    if len(checked) < 2:
        raise DataError(f"{place}: a conversation needs a question and an answer, this one has {len(checked)} message.")
    return {"messages": messages}
