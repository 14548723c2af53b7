"""What a text consists of: sizes, lengths, repetitions, scripts. Torch-free; some tens of megabytes a second."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanochat_core.data.own.own_text import digest, without_case_and_blanks
from nanochat_core.data.own.scripts import BLANKS, CLASSES, DIGITS, PUNCTUATION, REST, count_classes
from nanochat_core.data.shards import NEAR_EMPTY_CHARACTERS

NO_SCRIPT = (DIGITS, PUNCTUATION, BLANKS, REST)


@dataclass
class TextStats:
    """Grows with each document. About 190 bytes of memory a document, to find duplicates."""

    lengths: array = field(default_factory=lambda: array("q"))  # characters of each document
    bytes: int = 0
    empty: int = 0
    near_empty: int = 0
    classes: np.ndarray = field(default_factory=lambda: np.zeros(len(CLASSES), np.int64))
    _seen: set[bytes] = field(default_factory=set)
    _seen_plain: set[bytes] = field(default_factory=set)

    def add(self, text: str) -> None:
        """Take in one document."""
        self.lengths.append(len(text))
        self.bytes += len(text.encode(errors="replace"))
        length = len(text.strip())
        self.empty += not length
        self.near_empty += 0 < length < NEAR_EMPTY_CHARACTERS
        self.classes += count_classes(text)
        self._seen.add(digest(text))
        self._seen_plain.add(digest(without_case_and_blanks(text)))

    @property
    def documents(self) -> int:
        return len(self.lengths)

    def scripts(self) -> dict[str, float]:
        """Return the share of each script among the letters, the largest first."""
        letters = {name: int(n) for name, n in zip(CLASSES, self.classes, strict=True) if name not in NO_SCRIPT and n}
        total = sum(letters.values())
        return {name: count / total for name, count in sorted(letters.items(), key=lambda item: -item[1])}

    def histogram(self) -> list[tuple[int, int, int]]:
        """Return (first length, last length, documents) for 0, 1, 2-3, 4-7, … characters, without empty ends."""
        if not self.lengths:
            return []
        powers = np.ceil(np.log2(np.asarray(self.lengths) + 1)).astype(int)
        counts = np.bincount(powers)
        first = int(powers.min())
        return [(1 << power >> 1, max((1 << power) - 1, 0), int(counts[power])) for power in range(first, len(counts))]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values. Lengths are in characters."""
        lengths = np.asarray(self.lengths if self.lengths else [0])
        characters = int(lengths.sum())
        return {
            "documents": self.documents,
            "characters": characters,
            "bytes": self.bytes,
            "empty": self.empty,
            "near_empty": self.near_empty,
            "duplicates": self.documents - len(self._seen),
            "duplicates_but_for_case_and_blanks": self.documents - len(self._seen_plain),
            "length": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "mean": float(lengths.mean()),
                "p95": float(np.percentile(lengths, 95)),
                "max": int(lengths.max()),
            },
            "histogram": [{"from": first, "to": last, "documents": count} for first, last, count in self.histogram()],
            "scripts": self.scripts(),
            **{
                f"{name}_share": int(self.classes[CLASSES.index(name)]) / max(1, characters)
                for name in (DIGITS, PUNCTUATION, BLANKS)
            },
        }


def measure(texts: Iterable[str]) -> TextStats:
    """Return the statistics of `texts`."""
    stats = TextStats()
    for text in texts:
        stats.add(text)
    return stats
