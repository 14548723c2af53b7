"""How well a tokenizer compresses text: bytes per token, on text that it was not trained on. Torch-free."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from nanochat_core.tokenizer.bpe import Tokenizer

TEXTS_PER_BATCH = 256
TokenCounter = Callable[[Sequence[str]], int]  # how many tokens some texts are, all together


@dataclass(frozen=True)
class Compression:
    """Sizes of a text. Bytes are of UTF-8; tokens are without BOS."""

    documents: int
    characters: int
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Higher is better; 1 for a tokenizer without merges. 0 for an empty text.

        >>> Compression(documents=1, characters=11, bytes=12, tokens=3).bytes_per_token
        4.0
        """
        return self.bytes / self.tokens if self.tokens else 0.0


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Compression:
    """Return the sizes of `texts`, all together, encoded document by document."""
    return measure_by(partial(count_tokens, tokenizer), texts)


def measure_by(count: TokenCounter, texts: Iterable[str]) -> Compression:
    """Return the sizes of `texts`, their tokens counted by `count`."""
    documents = characters = size = tokens = 0
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, TEXTS_PER_BATCH)):
        documents += len(batch)
        characters += sum(map(len, batch))
        size += sum(len(text.encode(errors="replace")) for text in batch)
        tokens += count(batch)
    return Compression(documents, characters, size, tokens)


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Return how many tokens `tokenizer` makes of `texts`, all together."""
    return int(tokenizer.encode_flat(texts)[1][-1])
