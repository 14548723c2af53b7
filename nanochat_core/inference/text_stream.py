"""Ids to text as it becomes certain: whole characters, and nothing that may still be part of a stop string."""

import codecs
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal

from nanochat_core.inference.interface import Part
from nanochat_core.tokenizer.bpe import Tokenizer

Kind = Literal["text", "python", "python_output"]
PART_OPENERS: Mapping[str, Kind] = {"<|python_start|>": "python", "<|output_start|>": "python_output"}
PART_CLOSERS = ("<|python_end|>", "<|output_end|>")
Piece = tuple[Kind, str]


class Vocabulary:
    """A tokenizer with the special ids that a row looks for at every token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.special
        self.tokenizer = tokenizer
        self.ends = frozenset((special("<|assistant_end|>"), tokenizer.bos))
        self.openers = {special(name): kind for name, kind in PART_OPENERS.items()}
        self.closers = frozenset(special(name) for name in PART_CLOSERS)
        self.python_start, self.python_end = special("<|python_start|>"), special("<|python_end|>")
        self.output_start, self.output_end = special("<|output_start|>"), special("<|output_end|>")
        self.specials = frozenset(tokenizer.special_ids)


class TextStream:
    """One completion's text. Special tokens are never part of it; those of the tools say what kind the rest is.

    `parts` is all that was shown; `stop_text` the stop string that was met: the text ends before it.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        self._vocabulary, self._stop = vocabulary, tuple(text for text in stop if text)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.kind: Kind = "text"
        self.stop_text: str | None = None
        self.parts: list[Part] = []
        self._opens_part = True

    def push(self, token: int) -> list[Piece]:
        """Take the next id; return what may be shown now."""
        vocabulary = self._vocabulary
        if token not in vocabulary.specials:
            return self._read([token])
        shown = self.flush()
        if token in vocabulary.openers or token in vocabulary.closers:
            self.kind, self._opens_part = vocabulary.openers.get(token, "text"), True
        return shown

    def flush(self) -> list[Piece]:
        """Return what was held back: nothing more follows it."""
        text = self._characters.decode(b"", final=True)
        self._characters.reset()
        shown = self._show(text) if text else []
        if self._held and self.stop_text is None:
            shown += self._emit(self._held)
        self._held = ""
        return shown

    def _read(self, ids: Sequence[int]) -> list[Piece]:
        """Take ids that are not special; return what may be shown now."""
        text = self._characters.decode(self._vocabulary.tokenizer.decode_bytes(ids))
        return self._show(text) if text else []

    def _show(self, text: str) -> list[Piece]:
        if self.kind != "text" or not self._stop:
            return self._emit(text)
        text = self._held + text
        found = [(text.index(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if found:
            place, _, self.stop_text = min(found)
            text, self._held = text[:place], ""
        else:
            held = max(_overlap(text, stop) for stop in self._stop)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        return self._emit(text) if text else []

    def _emit(self, text: str) -> list[Piece]:
        if self.parts and not self._opens_part and self.parts[-1]["type"] == self.kind:
            self.parts[-1]["text"] += text
        else:
            self.parts.append({"type": self.kind, "text": text})
        self._opens_part = False
        return [(self.kind, text)]


def parts_of(vocabulary: Vocabulary, ids: Sequence[int]) -> list[Part]:
    """Return the parts of a completion whose ids are all there: those of a stream that took them one by one."""
    stream = TextStream(vocabulary)
    for is_special, run in groupby(ids, vocabulary.specials.__contains__):
        if is_special:
            for token in run:
                stream.push(token)
        else:
            stream._read(list(run))
    stream.flush()
    return stream.parts


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` are the first ones of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
