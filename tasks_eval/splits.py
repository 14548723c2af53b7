"""Which split a word, a pair of numbers or a fact belongs to: decided by a hash, so the two never share one."""

import hashlib

from tasks_eval.hub import TaskData
from tasks_eval.task import Split

TEST_SHARE = 0.1


def split_of(key: str) -> Split:
    """Return the split that `key` belongs to; about a tenth of all keys are for testing."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return "test" if number < TEST_SHARE * 2**32 else "train"


def split_words(data: TaskData, split: Split) -> list[str]:
    """Return the words of one split, in an order that has nothing to do with the alphabet."""
    words = [word for word in data.words() if split_of(word) == split]
    return sorted(words, key=lambda word: hashlib.sha256(f"order {word}".encode()).digest())
