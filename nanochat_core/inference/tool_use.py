"""One row of a generation: what it has said, whether a tool call is open, and which tokens are forced next.

The model writes <|python_start|>expression<|python_end|>; the tool's answer is then forced as
<|output_start|>result<|output_end|>, and the model goes on. Forced tokens carry mask 0.
"""

from collections import deque
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.inference.interface import Completion, Part
from nanochat_core.tokenizer.bpe import Tokenizer

Tool = Callable[[str], str | None]
PART_OPENERS = {"<|python_start|>": "python", "<|output_start|>": "python_output"}
PART_CLOSERS = ("<|python_end|>", "<|output_end|>")


@cache
def load_tool(name: str) -> Tool:
    """Return the tool registered as `name` in the entry-point group `nanochat.tools`."""
    tools = {entry.name: entry for entry in entry_points(group="nanochat.tools")}
    if name not in tools:
        raise SpecError(f"Unknown tool {name!r}{did_you_mean(name, tools)}.")
    return tools[name].load()


class Row:
    """A completion in the making."""

    def __init__(self, tokenizer: Tokenizer, *, max_new_tokens: int, tool: Tool | None) -> None:
        self._tokenizer, self._tool = tokenizer, tool
        self._max_new_tokens = max_new_tokens
        self.ids: list[int] = []
        self.mask: list[int] = []
        self._call: list[int] | None = None
        self._forced: deque[int] = deque()
        self._stops = (tokenizer.special("<|assistant_end|>"), tokenizer.bos)
        self.is_done = max_new_tokens < 1

    def take(self, sampled: int) -> int:
        """Append the forced token if there is one, else `sampled`, and return it; a row that is done stays as it is."""
        if self.is_done:
            return sampled
        token = self._forced.popleft() if self._forced else sampled
        is_forced = len(self.ids) < len(self.mask)
        self.ids.append(token)
        if not is_forced:
            self.mask.append(1)
            self._watch(token)
        self.is_done = self.is_done or len(self.ids) >= self._max_new_tokens
        return token

    def _watch(self, token: int) -> None:
        """Follow the model's own tokens: a tool call that opens, grows or closes, and the end."""
        special = self._tokenizer.special
        if token in self._stops:
            self.is_done = True
        elif token == special("<|python_start|>"):
            self._call = []
        elif token == special("<|python_end|>") and self._call is not None:
            answer = self._tool(self._tokenizer.decode(self._call)) if self._tool else None
            self._call = None
            if answer is not None:
                self._force([special("<|output_start|>"), *self._tokenizer.encode(answer), special("<|output_end|>")])
        elif self._call is not None:
            self._call.append(token)

    def _force(self, tokens: list[int]) -> None:
        self._forced.extend(tokens)
        self.mask.extend([0] * len(tokens))

    def completion(self) -> Completion:
        """Return what was said so far."""
        is_stopped = bool(self.ids) and self.ids[-1] in self._stops
        return Completion(
            ids=tuple(self.ids),
            mask=tuple(self.mask[: len(self.ids)]),
            parts=tuple(split_parts(self._tokenizer, self.ids)),
            finish_reason="stop" if is_stopped else "length",
            raw_text=self._tokenizer.decode(self.ids),
        )


def split_parts(tokenizer: Tokenizer, ids: list[int]) -> list[Part]:
    """Return ids as parts: text, tool calls and their output; other special tokens are left out."""
    openers = {tokenizer.special(name): kind for name, kind in PART_OPENERS.items()}
    closers = {tokenizer.special(name) for name in PART_CLOSERS}
    parts: list[tuple[str, list[int]]] = [("text", [])]
    for token in ids:
        if token in openers:
            parts.append((openers[token], []))
        elif token in closers:
            parts.append(("text", []))
        elif token not in tokenizer.special_ids:
            parts[-1][1].append(token)
    return [{"type": kind, "text": tokenizer.decode(tokens)} for kind, tokens in parts if tokens]
