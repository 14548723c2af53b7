"""How well a tokenizer compresses text: bytes per token, on text that it was not trained on. Torch-free."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from nanochat_core.tokenizer.bpe import Tokenizer

TEXTS_PER_BATCH = 256


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
    count = characters = size = tokens = 0
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, TEXTS_PER_BATCH)):
        count += len(batch)
        characters += sum(map(len, batch))
        size += sum(len(text.encode(errors="replace")) for text in batch)
        tokens += int(tokenizer.encode_flat(batch)[1][-1])
    return Compression(count, characters, size, tokens)
