"""Lengths: what is left is spread as the target is, or half is left, and no bucket gives more than it must."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.errors import SpecError
from tasks_eval.curation.lengths import bucket_of, length_distance, target_shares, unlike
from tasks_eval.mixture import Pick
from tests.tasks_eval.curation.made import chat, picks_of

LENGTHS = st.lists(st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=60)


def shares_of(lengths: list[int]) -> dict[int, float]:
    return {bucket: count / len(lengths) for bucket, count in Counter(map(bucket_of, lengths)).items()}


def kept_of(lengths: list[int], target: dict[int, float], seed: int = 1) -> list[int]:
    picks = picks_of([chat("a", "b")] * len(lengths))
    gone = {pick.index for pick in unlike(picks, lengths, target, seed)}
    return [length for index, length in enumerate(lengths) if index not in gone]


def test_lengths_are_matched_exactly_where_half_or_more_can_be_left() -> None:
    kept = kept_of([8] * 60 + [16] * 40, {bucket_of(8): 0.5, bucket_of(16): 0.5})
    assert Counter(kept) == {8: 40, 16: 40}


def test_half_is_left_where_an_exact_match_would_leave_less() -> None:
    target = {bucket_of(8): 0.5, bucket_of(16): 0.5}
    assert Counter(kept_of([8] * 90 + [16] * 10, target)) == {8: 40, 16: 10}
    assert Counter(kept_of([8] * 90 + [64] * 10, {bucket_of(8): 0.5, bucket_of(32): 0.5})) == {8: 50}


@given(LENGTHS, LENGTHS)
def test_the_distance_never_grows_and_about_half_is_left_where_the_target_has_as_many(
    lengths: list[int], wanted: list[int]
) -> None:
    target = shares_of(wanted)
    in_target = sum(bucket_of(length) in target for length in lengths)
    if not in_target:
        with pytest.raises(SpecError, match="No conversation is as long as those of the tasks"):
            kept_of(lengths, target)
        return
    kept = kept_of(lengths, target)
    slack = len(target)  # a bucket's share is rounded down to whole rows
    assert len(kept) >= min(in_target, len(lengths) / 2) - slack
    assert all(bucket_of(length) in target for length in kept)
    if kept:
        assert length_distance(kept, target) <= length_distance(lengths, target) + slack / len(kept)


def test_rows_that_a_mixture_gives_again_stay_or_go_together_and_the_seed_chooses() -> None:
    once = picks_of([chat("a", "b")] * 20)
    rows: list[Pick] = once * 3
    target = {bucket_of(8): 0.5, bucket_of(16): 0.5}
    lengths = [8 if pick.index < 15 else 16 for pick in rows]
    gone = [{pick.index for pick in unlike(rows, lengths, target, seed)} for seed in (1, 1, 2)]
    assert gone[0] == gone[1] != gone[2]
    assert len(gone[0]) == 10 and max(gone[0]) < 15


def test_each_task_of_the_target_counts_as_much_as_the_others() -> None:
    tasks = [picks_of([chat("x" * size, "y")] * count)[0].task for size, count in ((8, 1), (64, 9))]
    shares = target_shares(tasks, lambda example: ([0] * len(example["messages"][0]["content"]), []))
    assert shares == {bucket_of(8): pytest.approx(0.5), bucket_of(64): pytest.approx(0.5)}
