"""Plans: best fit as the textbook has it, steps alike in size, half a million conversations in a second."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.data.conversation_plans import (
    PLANNERS,
    BatchShape,
    best_fit_decreasing,
    bucket_starts,
    bucketed_plan,
    even_steps,
    packed_plan,
)


def rows_left(lengths: list[int], capacity: int) -> list[int]:
    """Return the room that best fit leaves in each row, sorted, by looking at every row for every piece."""
    room: list[int] = []
    for length in lengths:
        large_enough = [left for left in room if left >= length]
        if large_enough:
            room.remove(min(large_enough))
        room.append(min(large_enough, default=capacity) - length)
    return sorted(room)


@given(st.lists(st.integers(1, 30), max_size=80), st.integers(30, 50))
def test_best_fit_places_pieces_as_the_plain_search_does(pieces: list[int], capacity: int) -> None:
    lengths = sorted(pieces, reverse=True)
    row_of = best_fit_decreasing(np.array(lengths, dtype=np.int64), capacity)
    used = np.bincount(row_of, weights=lengths)
    assert sorted((capacity - used).astype(int).tolist()) == rows_left(lengths, capacity)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(0, 99))
def test_within_a_packed_row_conversations_keep_the_order_of_the_epoch(lengths: list[int], seed: int) -> None:
    plan = packed_plan(np.array(lengths), BatchShape(4, 30, 120), np.random.default_rng(seed))
    turn = np.argsort(np.random.default_rng(seed).permutation(len(lengths)))
    assert sorted(plan.members.tolist()) == list(range(len(lengths)))
    assert np.diff(plan.step_starts).max() - np.diff(plan.step_starts).min() <= 1
    for step in range(plan.steps):
        for row in plan.rows(step):
            assert len(row) and sum(lengths[index] for index in row) <= 30
            assert (np.diff(turn[row]) > 0).all()


@given(st.integers(0, 500), st.integers(1, 40))
def test_steps_are_as_few_as_can_be_and_equally_full(rows: int, batch_rows: int) -> None:
    sizes = np.diff(even_steps(rows, batch_rows))
    assert sizes.sum() == rows and len(sizes) == -(-rows // batch_rows)
    assert not rows or sizes.max() - sizes.min() <= 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(30, 200))
def test_buckets_keep_the_budget_and_are_not_one_more_than_a_greedy_cut_needs(widths: list[int], budget: int) -> None:
    falling = np.array(sorted(widths, reverse=True))
    starts = bucket_starts(falling, budget)
    sizes = np.diff(starts)
    assert sizes.sum() == len(widths) and (sizes > 0).all()
    assert (sizes * falling[starts[:-1]] <= budget).all()
    fewest = taken = 0
    while taken < len(widths):
        taken, fewest = taken + budget // int(falling[taken]), fewest + 1
    assert len(sizes) == fewest


def test_the_last_bucket_is_not_a_remainder() -> None:
    assert np.diff(bucket_starts(np.full(33, 10), 320)).tolist() == [17, 16]


def test_buckets_come_in_an_order_of_their_own_each_epoch() -> None:
    lengths = np.arange(2, 66)
    orders = []
    for epoch in range(2):
        plan = bucketed_plan(lengths, BatchShape(4, 100, 128), np.random.default_rng([0, epoch]))
        widest = [int(lengths[np.concatenate(plan.rows(step))].max()) for step in range(plan.steps)]
        orders.append(widest)
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) != orders[0]


@pytest.mark.parametrize("batching", list(PLANNERS))
def test_half_a_million_conversations_are_planned_in_a_second(batching: str) -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.5, 1.0, 500_000).astype(np.int64), 4, 20_000)
    started = time.process_time()
    plan = PLANNERS[batching](lengths, BatchShape(32, 2049, 32 * 2048), rng)
    assert time.process_time() - started < 2
    if batching == "packed":
        tokens = np.minimum(lengths, 2049).sum()
        assert tokens > 0.99 * (len(plan.row_starts) - 1) * 2049


def test_no_conversations_are_no_steps() -> None:
    for planner in PLANNERS.values():
        assert planner(np.array([], dtype=np.int64), BatchShape(4, 9, 32), np.random.default_rng(0)).steps == 0
