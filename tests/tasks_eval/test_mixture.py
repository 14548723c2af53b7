"""Mixtures: how many rows of what, in which order, and none of testing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.specs import ConversationsSpec, MixtureItem
from tasks_eval.hub import TaskData
from tasks_eval.mixture import Pick, even_shares, training_picks, validation_picks


def spec(*items: MixtureItem, validation_rows: int = 12, seed: int = 42) -> ConversationsSpec:
    return ConversationsSpec(mixture=items, validation_rows=validation_rows, seed=seed)


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
