"""Token ids of a conversation back to its messages: what `render.py` wrote, read again. Torch-free."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from nanochat_core.chat_format import SPECIAL_TOKENS, Stretch
from nanochat_core.errors import DataError
from nanochat_core.tokenizer.bpe import Tokenizer

ENDS = {  # what opens a stretch of text: the kind of it, and what closes it
    "<|user_start|>": ("user", "<|user_end|>"),
    "<|python_start|>": ("python", "<|python_end|>"),
    "<|output_start|>": ("python_output", "<|output_end|>"),
}


def runs(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int]) -> Iterator[Stretch]:
    """Yield the stretches of a rendered conversation, or of a plain document."""
    special = {tokenizer.special(name): name for name in SPECIAL_TOKENS}
    for (index, learned), group in groupby(
        enumerate(zip(ids, mask, strict=True)),
        key=lambda item: (item[0] if item[1][0] in special else None, bool(item[1][1])),
    ):
        if index is not None:
            yield Stretch(special[ids[index]], True, learned)
        else:
            yield Stretch(tokenizer.decode([token for _, (token, _) in group]), False, learned)


def parse_conversation(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the messages of a rendered conversation.

    As rendering joins them, texts that follow each other in an answer are one, and a system message is part of the
    first question. An answer without calls is a string. Raises DataError for ids that no conversation renders to.
    """
    pieces = _pieces(tokenizer, ids)
    if next(pieces, None) != "<|bos|>":
        raise DataError("The ids do not begin with <|bos|>: expected a rendered conversation.")
    messages: list[dict[str, Any]] = []
    for piece in pieces:
        role = {"<|user_start|>": "user", "<|assistant_start|>": "assistant"}.get(str(piece))
        if role is None:
            raise DataError(f"Message {len(messages)} begins with {piece!r}, expected the start of a turn.")
        content = _closed(pieces, "<|user_end|>") if role == "user" else _content(_parts(pieces))
        messages.append({"role": role, "content": content})
    return messages


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[str | list[str]]:
    """Yield special tokens by their names, and the texts between them, each as a list of one."""
    for text, is_special, _ in runs(tokenizer, ids, [0] * len(ids)):
        yield text if is_special else [text]


def _closed(pieces: Iterator[str | list[str]], end: str) -> str:
    """Return the text up to `end`, which is taken too."""
    piece = next(pieces, None)
    text = ""
    if isinstance(piece, list):
        text, piece = piece[0], next(pieces, None)
    if piece != end:
        raise DataError(f"Expected {end} after {text[-20:]!r}, got {piece!r}.")
    return text


def _parts(pieces: Iterator[str | list[str]]) -> Iterator[dict[str, str]]:
    """Yield the parts of an answer, up to its end."""
    for piece in pieces:
        if piece == "<|assistant_end|>":
            return
        if isinstance(piece, list):
            yield {"type": "text", "text": piece[0]}
        elif piece in ENDS and piece != "<|user_start|>":
            kind, end = ENDS[piece]
            yield {"type": kind, "text": _closed(pieces, end)}
        else:
            raise DataError(f"{piece} stands inside an answer.")
    raise DataError("The last answer does not end: expected <|assistant_end|>.")


def _content(parts: Iterator[dict[str, str]]) -> str | list[dict[str, str]]:
    found = list(parts)
    if all(part["type"] == "text" for part in found):
        return "".join(part["text"] for part in found)
    return found
