"""Which split a word, a pair of numbers or a fact belongs to: decided by a hash, so the two never share one."""

import hashlib

from nanochat_core.errors import DataError
from tasks_eval.task import Split
from tasks_eval.task_data import TaskData

TEST_SHARE = 0.1


def split_of(key: str) -> Split:
    """Return the split that `key` belongs to; about a tenth of all keys are for testing."""
    number = int.from_bytes(hashlib.sha256(key.encode(errors="replace")).digest()[:4], "big")
    return "test" if number < TEST_SHARE * 2**32 else "train"


def split_words(data: TaskData, split: Split) -> list[str]:
    """Return the words of one split, in an order that has nothing to do with the alphabet.

    Raises DataError where the list is so short that the split has none.
    """
    known = data.words()
    words = [word for word in known if split_of(word) == split]
    if not words:
        raise DataError(f"None of the {len(known)} words in {data.folder} is for the {split} split. Use a longer list.")
    return sorted(words, key=lambda word: hashlib.sha256(f"order {word}".encode()).digest())
