"""Harmony-rendered text, what gpt-oss reads and writes, as what was said in it. Torch-free.

    <|start|>user<|message|>What is 12*7?<|end|>
    <|start|>assistant<|channel|>analysis<|message|>They want a product.<|end|>
    <|start|>assistant<|channel|>commentary to=functions.calc <|constrain|>json<|message|>{"expression": "12*7"}<|call|>
    <|start|>functions.calc to=assistant<|channel|>commentary<|message|>84<|end|>
    <|start|>assistant<|channel|>final<|message|>It is 84.<|return|>

The `final` channel and preambles to calls are what the assistant says. The `analysis` channel is thought, not answer,
and left out, and so is the system message, which tells gpt-oss about itself; the developer's instructions are kept.
Format: https://cookbook.openai.com/articles/openai-harmony
"""

import re
from collections.abc import Iterator

from nanochat_core.data.own.tool_calls import called
from nanochat_core.data.own.turns import Said
from nanochat_core.errors import DataError

START, MESSAGE = "<|start|>", "<|message|>"
MESSAGE_PATTERN = re.compile(
    r"<\|start\|>(?P<header>.*?)<\|message\|>(?P<content>.*?)(?P<end><\|end\|>|<\|call\|>|<\|return\|>|\Z)", re.DOTALL
)
HEADER = re.compile(r"(?P<author>[^\s<]+)(?P<rest>.*)", re.DOTALL)
CHANNEL = re.compile(r"<\|channel\|>(\w+)")
RECIPIENT = re.compile(r"\bto=([\w.\-]+)")
INSTRUCTIONS, TOOLS = "# Instructions", "# Tools"
CONVERSATION_START = re.compile(r"(?<=<\|return\|>)|(?=<\|start\|>system<\|message\|>)")


def is_harmony(text: object) -> bool:
    """Return whether `text` is a string with the tokens of the format."""
    return isinstance(text, str) and START in text and MESSAGE in text


def conversations_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield the conversations of a file, each with the number of its first line.

    One ends after <|return|>, or before a system message.

    >>> one = "<|start|>user<|message|>Hi<|end|><|start|>assistant<|message|>Hello!<|return|>"
    >>> [line for line, _ in conversations_in(one + "\\n\\n" + one)]
    [1, 3]
    """
    line = 1
    for piece in CONVERSATION_START.split(text):
        stripped = piece.lstrip()
        if stripped:
            yield line + piece[: len(piece) - len(stripped)].count("\n"), stripped
        line += piece.count("\n")


def said_in_harmony(text: str) -> list[Said]:
    """Return what was said in one conversation; raises DataError for what is not of the format, or not complete."""
    said, place = [], 0
    for found in MESSAGE_PATTERN.finditer(text):
        if stray := text[place : found.start()].strip():
            raise DataError(f"text outside a message: {stray[:40]!r}; expected {START} there")
        if not found["end"]:
            raise DataError(
                f"the last message does not end: expected <|end|>, <|call|> or <|return|>, got {text[-20:]!r}"
            )
        said += _said_in_message(found["header"], found["content"])
        place = found.end()
    if stray := text[place:].strip():
        raise DataError(f"text outside a message: {stray[:40]!r}; expected {START} there")
    return said


def _said_in_message(header: str, content: str) -> list[Said]:
    parsed = HEADER.match(header.strip())
    if not parsed:
        raise DataError(f"the header {header!r} names nobody: expected a role or a tool after {START}")
    author, rest = parsed["author"], parsed["rest"]
    channel, recipient = CHANNEL.search(rest), RECIPIENT.search(rest)
    if author == "system":
        return []
    if author == "developer":
        instructions = content.partition(TOOLS)[0].replace(INSTRUCTIONS, "", 1).strip()
        return [Said("system", instructions)] * bool(instructions)
    if author == "user":
        return [Said("user", content)]
    if author != "assistant":
        return [Said("python_output", content)]
    if recipient and recipient[1] != "user":
        return [Said("python", called(recipient[1], content))]
    return [] if channel and channel[1] == "analysis" else [Said("text", content)]
