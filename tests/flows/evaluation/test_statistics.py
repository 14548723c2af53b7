"""The paired difference, beside scipy's and a bootstrap that is slow and obvious."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flows.evaluation.statistics import Difference, mean_difference, paired_difference

SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(
    st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=40).filter(
        lambda pairs: len({new - old for old, new in pairs}) > 1
    ),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_interval_is_that_of_a_paired_t_test(pairs: list[tuple[float, float]], confidence: float) -> None:
    old, new = zip(*pairs, strict=True)
    found = paired_difference(old, new, confidence=confidence)
    oracle = stats.ttest_rel(new, old).confidence_interval(confidence)
    assert (found.low, found.high) == (pytest.approx(oracle.low, abs=1e-12), pytest.approx(oracle.high, abs=1e-12))


def test_a_bootstrap_over_examples_gives_the_same_interval() -> None:
    generator = np.random.default_rng(7)
    old = (generator.random(600) < 0.5).astype(float)
    new = np.where(generator.random(600) < 0.2, (generator.random(600) < 0.6).astype(float), old)
    found = paired_difference(old.tolist(), new.tolist(), confidence=0.9)
    means = [float(np.mean((new - old)[generator.integers(0, 600, 600)])) for _ in range(4000)]
    low, high = np.quantile(means, [0.05, 0.95])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.003), pytest.approx(high, abs=0.003))
    unpaired = math.sqrt(old.var() / 600 + new.var() / 600)
    assert found.stderr < 0.6 * unpaired  # which is why the examples are paired


def test_the_mean_over_tasks_is_that_of_welch_for_two_tasks() -> None:
    """Half the difference of two independent samples has half of Welch's interval, the second one's sign turned."""
    generator = np.random.default_rng(8)
    one, two = generator.integers(-1, 2, 30).astype(float), generator.integers(-1, 2, 90).astype(float)
    tasks = [paired_difference([0.0] * len(row), row.tolist(), confidence=0.95) for row in (one, two)]
    found = mean_difference(tasks, confidence=0.95)
    oracle = stats.ttest_ind(one, -two, equal_var=False).confidence_interval(0.95)
    assert (2 * found.low, 2 * found.high) == (pytest.approx(oracle.low), pytest.approx(oracle.high))


def test_one_example_and_a_task_with_one_tell_nothing_about_the_spread() -> None:
    single = paired_difference([0.0], [1.0], confidence=0.95)
    many = paired_difference([0.0, 1.0, 1.0], [1.0, 1.0, 0.0], confidence=0.95)
    for found in (single, mean_difference([single, many], confidence=0.95)):
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_what_does_not_pair_is_refused() -> None:
    for old, new in (([], []), ([1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="do not pair"):
            paired_difference(old, new, confidence=0.95)
    with pytest.raises(ValueError, match="no task"):
        mean_difference([], confidence=0.95)


def test_tasks_that_all_agree_leave_no_doubt() -> None:
    same = paired_difference([1.0, 0.0], [1.0, 0.0], confidence=0.95)
    assert mean_difference([same, same], confidence=0.95) == Difference(4, 0.5, 0.5, 0.0, 0.0, 2, 0.0, 0.0)
