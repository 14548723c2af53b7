"""What a benchmark sees of a model: a `TextModel` that scores and continues text in batches.

Our engine implements it (`inference/load.py`), tests have a fake, and an HTTP endpoint can too. This module is free of
torch, so that `tasks_eval` can import it anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Conversation = dict[str, Any]  # {"messages": [{"role": …, "content": str | list of parts}, …], + a task's own fields}
Part = dict[str, str]  # {"type": "text" | "python" | "python_output", "text": …}


@dataclass(frozen=True)
class LoglikelihoodRequest:
    """Score `ids[start:]` given `ids[:start]` (1 <= start < len(ids)). `ids` begins with BOS."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Loglikelihood:
    """Natural-log probability of the scored ids, how many they were, and whether each was the arg-max."""

    logprob_sum: float
    num_tokens: int
    is_greedy: bool


@dataclass(frozen=True)
class GenerateRequest:
    """Continue a conversation (its last message must be the user's) or, where `text` is given, plain text after BOS."""

    conversation: Conversation | None = None
    text: str | None = None
    num_samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    use_tools: bool = True


@dataclass(frozen=True)
class Completion:
    """One continuation. `ids` holds all of it, forced tool output too; `mask` is 1 on what the model itself chose.

    `draw_logprobs`, where asked for: with which log-probability each id was drawn, 0 for those that were forced.
    """

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    parts: tuple[Part, ...]
    finish_reason: Literal["stop", "length"]
    raw_text: str = field(default="", repr=False)
    draw_logprobs: tuple[float, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """What the model said, without its tool calls and their output."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")


class TextModel(Protocol):
    """A model behind batched calls. Answers come in the order of the requests."""

    @property
    def bos(self) -> int:
        """The id that every text begins with."""
        ...

    @property
    def max_context(self) -> int:
        """Tokens that a prompt may have."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without BOS; text that spells a special token stays text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` does."""
        ...

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
        """Score each request; ids beyond `max_context` are cut from the left (never the scored ones)."""
        ...

    def choice_logits(self, prompts: Sequence[Conversation], letters: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return, for each prompt, the logits of its letters as the assistant's first token.

        `prompts[i]` ends with the user's message. Raises NanochatError where a letter is not a single token.
        """
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
        """Return `num_samples` completions for each request. temperature 0 = greedy; equal seeds give equal text."""
        ...
