"""Which runs of words make an example of an evaluation contaminated, and which of its examples a search has met.

An example's runs are all runs of n words in its question and answer. A question of fewer words counts as one run, if it
has 8 or more and no other example of its task asks the same. What many examples of a task have in common (its
template: "Read the passage and answer") is no sign of any of them: runs that begin or end with 8 words of it are left
out, and so are rows of digits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks_eval.contamination.ngrams import BLOCK_BYTES, BORDER, Hashes, HashSet, Places, Words, words_of
from tasks_eval.contamination.texts import QuestionAnswer

SHORTEST = 8  # words of a question that is looked for whole
BYTES_PER_WORD = 4  # of a run, what stands between its words included; English has about 6
TEMPLATE_SHARE, TEMPLATE_COUNT = 0.01, 20  # of a task's examples: what more of them have, of both, is its template
NOT_FOUND = -1

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """Runs of words of some examples: each one's hash, its example, its length in words, whether the question holds it.

    `heads` and `tails` are the hashes of its first and last SHORTEST words (of all, where it has fewer).
    """

    hashes: Hashes
    examples: Places
    lengths: Places
    in_question: Flags
    heads: Hashes
    tails: Hashes

    def __len__(self) -> int:
        return len(self.hashes)

    def kept(self, is_kept: Flags) -> "Runs":
        """Return those runs for which `is_kept` is true."""
        return Runs(*(column[is_kept] for column in vars(self).values()))


@dataclass(frozen=True)
class TaskRuns:
    """What a task is looked for by: its runs. `texts` are question and answer of each of its examples."""

    name: str
    texts: Sequence[QuestionAnswer]
    runs: Runs

    @property
    def checked(self) -> int:
        """The examples that have any run; the others are too short."""
        return len(np.unique(self.runs.examples))


def runs_of_task(name: str, texts: Sequence[QuestionAnswer], length: int) -> TaskRuns:
    """Return the runs of `length` words of a task's examples, and its short questions."""
    runs = _concatenated(list(_runs_by_block(texts, length)))
    limit = max(TEMPLATE_COUNT, TEMPLATE_SHARE * len(texts))
    is_template = _are_often(runs.hashes, limit) | _are_often(runs.heads, limit) | _are_often(runs.tails, limit)
    short = np.flatnonzero(runs.lengths < length)
    _, inverse, counts = np.unique(runs.hashes[short], return_inverse=True, return_counts=True)
    is_template[short] |= counts[inverse] > 1
    return TaskRuns(name, texts, runs.kept(~is_template))


def _are_often(hashes: Hashes, limit: float) -> Flags:
    """Return which hashes are there more than `limit` times; others that share a bucket are too few to matter."""
    bits = max(16, len(hashes).bit_length() + 1)
    buckets = (hashes >> np.uint64(64 - bits)).view(np.int64)
    is_often: Flags = np.bincount(buckets, minlength=1 << bits)[buckets] > limit
    return is_often


def _concatenated(parts: Sequence[Runs]) -> Runs:
    if not parts:
        places, hashes = np.empty(0, np.int64), np.empty(0, np.uint64)
        return Runs(hashes, places, places, places.astype(np.bool_), hashes, hashes)
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Runs(*(np.concatenate(column) for column in columns))


def _runs_by_block(texts: Sequence[QuestionAnswer], length: int) -> Iterator[Runs]:
    """Yield the runs, those of some examples at a time."""
    first = 0
    while first < len(texts):
        end, size = first, 0
        while end < len(texts) and size < BLOCK_BYTES:
            size += len(texts[end][0]) + len(texts[end][1])
            end += 1
        yield _runs_of_block(texts[first:end], first, length)
        first = end


def _runs_of_block(texts: Sequence[QuestionAnswer], first: int, length: int) -> Runs:
    """Return the runs of some examples, the first of which has the number `first`."""
    encoded = [_clean(part) for text in texts for part in text]
    offsets = np.cumsum([0, *(len(part) + 1 for part in encoded)])  # a blank after each
    words = words_of(b" ".join(encoded) + b" ")
    borders = np.searchsorted(words.starts, offsets)  # the word with which each part begins
    questions, answers, ends = borders[:-1:2], borders[1::2], borders[2::2]
    starts = np.arange(max(0, len(words) - length + 1))
    of = np.searchsorted(ends, starts, side="right")
    within = starts + length <= ends[of]
    within &= _is_text(words, starts, length)
    starts, of = starts[within], of[within]
    parts = [_runs_at(words, starts, of + first, length, starts + length <= answers[of])]
    sizes = answers - questions
    for size in range(SHORTEST, length):
        short = np.flatnonzero(sizes == size)
        short = short[_is_text(words, questions[short], size)]
        parts.append(_runs_at(words, questions[short], short + first, size, np.ones(len(short), np.bool_)))
    return _concatenated(parts)


def _runs_at(words: Words, places: Places, examples: Places, length: int, in_question: Flags) -> Runs:
    """Return the runs of `length` words that begin at `places`."""
    part = min(SHORTEST, length)
    heads, tails = words.runs(part, places), words.runs(part, places + length - part)
    lengths = np.full(len(places), length)
    return Runs(words.runs(length, places), examples, lengths, in_question, heads, tails)


def _is_text(words: Words, places: Places, length: int) -> Flags:
    """Return which of the runs that begin at `places` say more than a row of digits or single letters would."""
    is_long: Flags = words.ends[places + length - 1] - words.starts[places] >= BYTES_PER_WORD * length
    return is_long


def _clean(text: str) -> bytes:
    return text.replace(BORDER, " ").encode(errors="surrogatepass")


class OverlapIndex:
    """All tasks' runs as one set, and for each of them the first shard in which it was met."""

    def __init__(self, tasks: Sequence[TaskRuns], length: int) -> None:
        self.tasks, self.length = tasks, length
        runs = _concatenated([task.runs for task in tasks])
        hashes, firsts, inverse = np.unique(runs.hashes, return_index=True, return_inverse=True)
        self._of_task = np.split(inverse, np.cumsum([len(task.runs) for task in tasks])[:-1])
        lengths = runs.lengths[firsts]
        self._set, self._heads_of_short = HashSet(hashes), HashSet(np.unique(runs.heads[runs.lengths < length]))
        self._short_lengths = np.unique(lengths[lengths < length]).tolist()
        self._shards = np.full(len(hashes), NOT_FOUND, np.int32)

    def __len__(self) -> int:
        return len(self._shards)

    def search(self, text: bytes) -> Places:
        """Return the numbers of the runs that stand in `text`. Safe in threads."""
        words = words_of(text)
        _, numbers = self._set.find(words.runs(self.length))
        found = [numbers, *self._search_short(words)]
        return np.unique(np.concatenate(found))

    def _search_short(self, words: Words) -> Iterator[Places]:
        if not self._short_lengths or len(words) < SHORTEST:
            return
        places, _ = self._heads_of_short.find(words.runs(SHORTEST))
        for size in self._short_lengths:
            fitting = places[places + size <= len(words)]
            yield self._set.find(words.runs(size, fitting))[1]

    def mark(self, numbers: Places, shard: int) -> None:
        """Write down that these runs stand in a shard; the first that is told counts."""
        new = numbers[self._shards[numbers] == NOT_FOUND]
        self._shards[new] = shard

    def shards_of(self, task: int) -> NDArray[np.int32]:
        """Return the shard of each run of a task, NOT_FOUND for those that were not met."""
        return self._shards[self._of_task[task]]
