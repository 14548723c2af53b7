"""Our vocabulary beside GPT-2's and GPT-4's: bytes per token of English, code, maths and other scripts. Torch-free.

The texts in `samples/` were written for this and stand nowhere else, so that no vocabulary was trained on them. Where
the ranks of GPT-2 and GPT-4 are not at hand (`public_vocabularies.py`), `reference_tokens.json` stands in on the
samples: their tokens, counted once with those ranks (`reference_table.py`). Held-out text then has no such number.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tiktoken

from nanochat_core import artifacts
from nanochat_core.tokenizer.bpe import LONGEST_FOR_TIKTOKEN, Tokenizer
from nanochat_core.tokenizer.compression import Compression, measure_by
from nanochat_core.tokenizer.public_vocabularies import VOCABULARIES

SAMPLES = ("english", "code", "maths", "russian", "arabic", "hindi", "chinese", "korean")
SAMPLES_FOLDER = Path(__file__).parent / "samples"
TABLE = Path(__file__).parent / "reference_tokens.json"
OWN, HELD_OUT = "own", "held_out"


@dataclass(frozen=True)
class ComparedText:
    """A text's size in UTF-8, and its tokens by vocabulary: `own`, and GPT-2's and GPT-4's by tiktoken's names."""

    name: str
    bytes: int
    tokens: dict[str, int]

    def bytes_per_token(self, vocabulary: str) -> float:
        """Return how well a vocabulary compresses the text; raises KeyError where that was not measured.

        >>> ComparedText("english", 12, {"own": 3}).bytes_per_token("own")
        4.0
        """
        return self.bytes / self.tokens[vocabulary]


def sample_text(name: str) -> str:
    """Return one of SAMPLES."""
    return (SAMPLES_FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def compare_samples(tokenizer: Tokenizer, references: Mapping[str, tiktoken.Encoding]) -> list[ComparedText]:
    """Return SAMPLES by our vocabulary and by VOCABULARIES; the table stands in for those that `references` lacks."""
    table = artifacts.read_json(TABLE)["samples"]
    compared = []
    for name in SAMPLES:
        text = sample_text(name)
        tokens = {OWN: len(tokenizer.encode(text))} | {key: table[name][key] for key in VOCABULARIES}
        tokens |= {key: count_reference_tokens(encoding, [text]) for key, encoding in references.items()}
        compared.append(ComparedText(name, len(text.encode()), tokens))
    return compared


def compare_held_out(
    own: Compression, references: Mapping[str, tiktoken.Encoding], documents: Callable[[], Iterable[str]]
) -> ComparedText:
    """Return the held-out text, whose sizes by our vocabulary are `own`; `documents` gives it anew at each call."""
    tokens = {OWN: own.tokens}
    for key, encoding in references.items():
        tokens[key] = measure_by(partial(count_reference_tokens, encoding), documents()).tokens
    return ComparedText(HELD_OUT, own.bytes, tokens)


def count_reference_tokens(encoding: tiktoken.Encoding, texts: Sequence[str]) -> int:
    """Return how many tokens an encoding of tiktoken makes of `texts`, all together.

    A text that is too long for tiktoken is cut, which may add a token at each cut.
    """
    starts = ((text, first) for text in texts for first in range(0, len(text), LONGEST_FOR_TIKTOKEN))
    pieces = [text[first : first + LONGEST_FOR_TIKTOKEN] for text, first in starts]
    return sum(map(len, encoding.encode_ordinary_batch(pieces)))
