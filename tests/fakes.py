"""Fakes for tests: a tokenizer of bytes, and a model that answers what it is told to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat_core.chat_format import SPECIAL_TOKENS, parts_of
from nanochat_core.inference.interface import (
    Completion,
    Conversation,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    Part,
)
from nanochat_core.tokenizer.bpe import Tokenizer

BYTES = 256


def byte_tokenizer() -> Tokenizer:
    """The real tokenizer with no merges: ids 0..255 are bytes, the special tokens follow."""
    special = {name: BYTES + index for index, name in enumerate(SPECIAL_TOKENS)}
    return Tokenizer.from_ranks({bytes([value]): value for value in range(BYTES)}, special)


@dataclass
class FakeTextModel:
    """A `TextModel` over bytes: `answer` gives a message's content for a conversation, `score` a likelihood."""

    answer: Callable[[Conversation], str | list[Part]] = lambda conversation: "yes"
    score: Callable[[LoglikelihoodRequest], Loglikelihood] = lambda request: Loglikelihood(
        -float(len(request.ids) - request.start), len(request.ids) - request.start, False
    )
    bos: int = BYTES
    max_context: int = 1 << 20

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(self.encode, texts))

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
        return [self.score(request) for request in requests]

    def choice_logits(self, prompts: Sequence[Conversation], letters: Sequence[Sequence[str]]) -> list[list[float]]:
        answers = [self.answer(prompt) for prompt in prompts]
        return [[float(letter == answer) for letter in row] for answer, row in zip(answers, letters, strict=True)]

    def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
        return [self._samples(request) for request in requests]

    def _samples(self, request: GenerateRequest) -> list[Completion]:
        content = self.answer(request.conversation or {"messages": [{"role": "user", "content": request.text}]})
        return [completion_of(content) for _ in range(request.num_samples)]


def completion_of(content: str | list[Part]) -> Completion:
    """Return a finished completion that says `content` (an assistant message's content)."""
    parts = tuple(parts_of(content))
    text = "".join(part["text"] for part in parts)
    ids = tuple(text.encode())
    return Completion(ids=ids, mask=(1,) * len(ids), parts=parts, finish_reason="stop", raw_text=text)
