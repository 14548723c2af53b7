"""Mixtures: how many rows of what, in which order, and none of testing."""

import hashlib
import json
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.recipes import recipe
from nanochat_core.specs import ConversationsSpec, MixtureItem
from tasks_eval.mixture import Pick, even_shares, row_counts, training_picks, validation_picks
from tasks_eval.task_data import TaskData
from tests.task_data import mirror_task_data

# SHA-256, its first 16 digits, of what recipes picked of the mirror before mixtures had weights: (train, validation)
PICKS = {
    ("speedrun", "sft"): ("f9950f45e2f37839", "b89a40cf7aa0304a"),
    ("speedrun", "rl"): ("6a15606111946a39", "64978f99ba6acdd3"),
    ("classic_d20", "midtrain"): ("6080877fe42c1b80", "a5434c96078ae543"),
    ("classic_d20", "sft"): ("193ff675a91e9ecd", "38ee7e91a344e52f"),
}
LONG = [pytest.param(*key, marks=pytest.mark.slow) if key[0] == "classic_d20" else key for key in PICKS]


def spec(*items: MixtureItem, validation_rows: int = 12, seed: int = 42, **others: object) -> ConversationsSpec:
    return ConversationsSpec.model_validate(
        {"mixture": items, "validation_rows": validation_rows, "seed": seed, **others}
    )


def places(picks: list[Pick]) -> list[tuple[str, str, int]]:
    return [(pick.task.name, pick.task.split, pick.index) for pick in picks]


def test_each_task_gives_its_rows_as_often_as_it_has_epochs(data: TaskData) -> None:
    mixture = spec(MixtureItem(task="GSM8K", epochs=3), MixtureItem(task="Arithmetic", rows=5))
    counts = Counter(places(training_picks(mixture, data)))
    assert counts == {("GSM8K", "train", index): 3 for index in range(8)} | {
        ("Arithmetic", "train", index): 1 for index in range(5)
    }


def test_a_task_with_fewer_rows_than_asked_for_gives_all(data: TaskData) -> None:
    assert len(training_picks(spec(MixtureItem(task="GSM8K", rows=1000)), data)) == 8


def test_the_order_is_mixed_and_a_matter_of_the_seed_alone(data: TaskData) -> None:
    items = (MixtureItem(task="GSM8K"), MixtureItem(task="Arithmetic", rows=100))
    first, again, other = (places(training_picks(spec(*items, seed=seed), data)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other)
    assert {name for name, _, _ in first[:60]} == {"GSM8K", "Arithmetic"}


def test_validation_takes_the_last_of_the_test_splits_evenly(data: TaskData) -> None:
    picks = validation_picks(spec(MixtureItem(task="GSM8K"), MixtureItem(task="Arithmetic", rows=5)), data)
    assert Counter(name for name, _, _ in places(picks)) == {"GSM8K": 6, "Arithmetic": 6}
    assert {split for _, split, _ in places(picks)} == {"test"}
    assert {index for name, _, index in places(picks) if name == "Arithmetic"} == set(range(4994, 5000))


@given(st.integers(0, 500), st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_shares_are_even_and_never_more_than_a_part_has(total: int, sizes: list[int]) -> None:
    shares = even_shares(total, sizes)
    assert sum(shares) == min(total, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    unfilled = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert not unfilled or max(shares) - min(unfilled) <= 1


WEIGHTED = (
    MixtureItem(task="GSM8K", weight=2),
    MixtureItem(task="Arithmetic", weight=0.5),
    MixtureItem(task="ARC-Easy", epochs=2),
)


def test_tasks_with_weights_share_their_rows_and_go_over_them_as_often_as_that_needs(data: TaskData) -> None:
    picks = places(training_picks(spec(*WEIGHTED, weighted_rows=50), data))
    assert Counter(name for name, _, _ in picks) == {"GSM8K": 40, "Arithmetic": 10, "ARC-Easy": 10}
    assert set(Counter(index for name, _, index in picks if name == "GSM8K").values()) == {5}  # 8 rows
    assert {index for name, _, index in picks if name == "Arithmetic"} == set(range(10))


def test_without_a_number_of_rows_no_weighted_task_needs_more_than_its_epochs(data: TaskData) -> None:
    counts = Counter(name for name, _, _ in places(training_picks(spec(*WEIGHTED), data)))
    assert counts == {"GSM8K": 8, "Arithmetic": 2, "ARC-Easy": 10}
    thrice = (MixtureItem(task="GSM8K", weight=2, epochs=3), *WEIGHTED[1:])
    assert Counter(name for name, _, _ in places(training_picks(spec(*thrice), data)))["GSM8K"] == 24


def test_in_a_sequence_one_task_comes_after_the_other_each_shuffled_by_the_seed(data: TaskData) -> None:
    items = (MixtureItem(task="Facts", rows=20), MixtureItem(task="GSM8K", epochs=2), MixtureItem(task="Facts", rows=5))
    first, again, other = (
        places(training_picks(spec(*items, seed=seed, order="sequence"), data)) for seed in (1, 1, 2)
    )
    assert [(name, len(list(rows))) for name, rows in groupby(name for name, _, _ in first)] == [
        ("Facts", 20),
        ("GSM8K", 16),
        ("Facts", 5),
    ]
    assert first == again != other
    assert sorted(first[:20]) == sorted(other[:20]) != first[:20]


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 500), st.integers(1, 4)), min_size=1, max_size=6),
)
def test_weighted_rows_add_up_and_are_in_proportion(total: int, parts: list[tuple[float, int, int]]) -> None:
    items = [MixtureItem(task="x", weight=weight, epochs=epochs) for weight, _, epochs in parts]
    available = [rows for _, rows, _ in parts]
    counts = row_counts(items, available, total)
    weight = sum(weight for weight, _, _ in parts)
    assert sum(counts) == total
    assert all(abs(count - total * part[0] / weight) <= 1 for count, part in zip(counts, parts, strict=True))
    within = row_counts(items, available, None)
    assert all(count <= rows * epochs for count, (_, rows, epochs) in zip(within, parts, strict=True))
    most = weight * min(rows * epochs / own for own, rows, epochs in parts)
    assert abs(sum(within) - most) <= 1 + 1e-9 * most


@pytest.mark.hub
@pytest.mark.parametrize(("name", "part"), LONG)
def test_what_recipes_pick_stays_as_it_was(name: str, part: str, hub_mirror: Path) -> None:
    conversations, data = getattr(recipe(name), part).conversations, mirror_task_data(hub_mirror)
    hashes = [
        hashlib.sha256(json.dumps([(pick.task.name, pick.index) for pick in picks(conversations, data)]).encode())
        for picks in (training_picks, validation_picks)
    ]
    assert tuple(found.hexdigest()[:16] for found in hashes) == PICKS[name, part]
