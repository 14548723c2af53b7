"""Conversations as long as those that inference sees: which to leave out so that their lengths are spread alike."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from nanochat_core.errors import SpecError
from tasks_eval.mixture import Pick, Render
from tasks_eval.task import Task

STEPS_IN_OCTAVE = 2  # lengths are alike within a factor of √2
LEAST_KEPT = 0.5  # share of the rows that are left, where that can be
TARGET_EXAMPLES = 1000  # of each task, the first


def bucket_of(length: int) -> int:
    """Return which lengths one of so many tokens is alike to.

    >>> [bucket_of(length) for length in (8, 11, 12, 16)]
    [6, 6, 7, 8]
    """
    return int(STEPS_IN_OCTAVE * np.log2(max(1, length)) + 1e-9)


def target_shares(tasks: Sequence[Task], render: Render) -> dict[int, float]:
    """Return which share of the tasks' examples each bucket of lengths has; each task counts as much as the others."""
    shares: dict[int, float] = {}
    for task in tasks:
        count = min(len(task), TARGET_EXAMPLES)
        for index in range(count):
            bucket = bucket_of(len(render(task[index])[0]))
            shares[bucket] = shares.get(bucket, 0.0) + 1 / (count * len(tasks))
    return shares


def unlike(picks: Sequence[Pick], lengths: Sequence[int], target: dict[int, float], seed: int) -> list[Pick]:
    """Return the picks to leave out so that the lengths of the rest are spread as `target` says, or half is left.

    `picks` may hold one several times: those stay, or go, together. Raises SpecError where no length is in the target.
    """
    times = Counter(picks)
    bucket_by_pick = {pick: bucket_of(length) for pick, length in zip(picks, lengths, strict=True)}
    available = Counter(bucket_by_pick[pick] for pick in picks)
    if not available.keys() & target.keys():
        raise SpecError("No conversation is as long as those of the tasks in curation.match_lengths: name other tasks.")
    total = total_rows(available, target)
    room = {bucket: total * share + 1e-6 for bucket, share in target.items()}
    distinct, left_out = list(times), []
    for number in np.random.default_rng(seed).permutation(len(distinct)):
        pick = distinct[number]
        bucket = bucket_by_pick[pick]
        if times[pick] > room.get(bucket, 0):
            left_out.append(pick)
        else:
            room[bucket] -= times[pick]
    return left_out


def total_rows(available: dict[int, int], target: dict[int, float]) -> float:
    """Return of how many rows each bucket may have its share, at most what is available.

    As many as give each its full share, or, where these are fewer, as leave half of all rows, if any number does.

    >>> total_rows({1: 60, 2: 40}, {1: 0.5, 2: 0.5}), total_rows({1: 90, 2: 10}, {1: 0.5, 2: 0.5})
    (80.0, 80.0)
    """
    full = sorted((available.get(bucket, 0) / share, bucket) for bucket, share in target.items())
    least = LEAST_KEPT * sum(available.values())
    exact = full[0][0]
    if exact * sum(target.values()) >= least:
        return exact
    taken, share = 0.0, sum(target.values())  # of buckets that are used up, and of those that are not
    for total, bucket in full:
        if taken + total * share >= least:
            return (least - taken) / share
        taken, share = taken + available.get(bucket, 0), share - target[bucket]
    return full[-1][0]


def length_distance(lengths: Sequence[int], target: dict[int, float]) -> float:
    """Return the total variation distance of the lengths from the target: 0 where alike, 1 where none is in it."""
    counts = Counter(map(bucket_of, lengths))
    shares = {bucket: count / max(1, len(lengths)) for bucket, count in counts.items()}
    return sum(abs(shares.get(bucket, 0) - target.get(bucket, 0)) for bucket in shares | target) / 2
