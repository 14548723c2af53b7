"""The best size of each budget against the planted law's own, and flags where the sizes do not enclose it."""

import numpy as np
import pytest

from nanochat_core.errors import DataError
from nanochat_core.optim.isoflop import find_optimum, fit_power_law
from nanochat_core.optim.scaling_laws import JointLaw, Point
from tests.nanochat_core.optim.planted import BUDGETS, LAW, best_parameters, run_of, runs


def optima(points: dict[float, list[Point]]):
    return [find_optimum(row, compute) for compute, row in points.items()]


@pytest.mark.parametrize("depths", [3, 5, 8])
def test_the_lowest_point_is_the_planted_laws_best_size(depths: int) -> None:
    for found in optima(runs(depths=depths, spread=1.5)):
        best = best_parameters(LAW, found.compute)
        assert found.edge is None
        assert found.parameters == pytest.approx(best, rel=0.01)
        assert found.tokens == pytest.approx(found.compute / 6 / best, rel=0.01)
        assert found.loss == pytest.approx(LAW.loss(best, found.compute / 6 / best), rel=1e-4)


@pytest.mark.parametrize("sizes", [(0.5, 0.95, 1.3), (0.8, 0.95, 1.5, 2.0), (0.6, 0.75, 1.05, 1.2)])
def test_the_best_size_need_not_be_in_the_middle(sizes: tuple[float, ...]) -> None:
    best = best_parameters(LAW, 1e19)
    found = find_optimum([run_of(LAW, 1e19, size * best) for size in sizes], 1e19)
    assert found.edge is None
    assert found.parameters == pytest.approx(best, rel=0.02)


def test_a_wide_grid_is_off_by_what_a_parabola_is_off() -> None:
    for found in optima(runs(depths=7, spread=4.0)):
        assert found.parameters == pytest.approx(best_parameters(LAW, found.compute), rel=0.15)


def test_the_exponents_of_the_best_size_and_tokens_are_the_planted_laws() -> None:
    found = optima(runs(depths=7, spread=2.0))
    sizes = fit_power_law(BUDGETS, [optimum.parameters for optimum in found])
    tokens = fit_power_law(BUDGETS, [optimum.tokens for optimum in found])
    assert sizes.exponent == pytest.approx(LAW.parameter_exponent, abs=1e-3)
    assert tokens.exponent == pytest.approx(LAW.token_exponent, abs=1e-3)
    assert sizes.at(1e24) == pytest.approx(best_parameters(LAW, 1e24), rel=0.05)


def test_the_interval_covers_the_planted_exponent_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        points = runs(JointLaw(1.7, 400.0, 400.0, 0.3, 0.3), depths=7, spread=3.0, noise=0.002, seed=seed)
        sizes = [optimum.parameters for optimum in optima(points)]
        interval = fit_power_law(BUDGETS, sizes).interval
        assert interval
        covered += interval.low <= 0.5 <= interval.high
    assert 180 <= covered <= 199


@pytest.mark.parametrize(("sizes", "edge"), [((2, 4, 8), "smallest"), ((0.1, 0.2, 0.5), "largest")])
def test_a_best_size_outside_of_the_grid_is_flagged(sizes: tuple[float, ...], edge: str) -> None:
    best = best_parameters(LAW, 1e19)
    found = find_optimum([run_of(LAW, 1e19, size * best) for size in sizes], 1e19)
    assert found.edge == edge
    assert found.parameters == pytest.approx(best * (sizes[0] if edge == "smallest" else sizes[-1]))


def test_runs_that_form_no_valley_are_flagged() -> None:
    losses = {1e6: 3.0, 2e6: 9.0, 4e6: 2.9, 8e6: 9.0, 16e6: 3.0}
    hill = [Point(1e18, size, 1e18 / 6 / size, loss) for size, loss in losses.items()]
    assert find_optimum(hill, 1e18).edge == "none found"


def test_the_misfit_is_how_far_the_parabola_is_from_the_runs() -> None:
    assert find_optimum(runs(depths=3)[1e18], 1e18).misfit == pytest.approx(0, abs=1e-9)
    points = runs(depths=5, spread=1.2)[1e18]
    points[1] = Point(1e18, points[1].parameters, points[1].tokens, points[1].loss * 1.01)
    assert 0.003 < find_optimum(points, 1e18).misfit < 0.01


def test_fewer_than_three_sizes_are_refused_with_the_budget_named() -> None:
    with pytest.raises(DataError, match=r"1e\+18 FLOPs has 2 finished runs; a parabola needs 3 sizes"):
        find_optimum(runs()[1e18][:2], 1e18)


def test_a_power_law_through_two_points_has_no_interval() -> None:
    law = fit_power_law([1e18, 1e20], [1e8, 1e9])
    assert law.exponent == pytest.approx(0.5)
    assert law.interval is None
    with pytest.raises(DataError, match="two points or more, got 1"):
        fit_power_law([1e18, 1e18], [1e8, 1e9])


def test_the_interval_of_a_power_law_is_students() -> None:
    x, y = np.array([1.0, 10.0, 100.0, 1000.0]), np.array([1.0, 11.0, 95.0, 1010.0])
    law = fit_power_law(list(x), list(y))
    slope, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert law.exponent == pytest.approx(slope[0])
    assert law.interval
    reach = 4.302653 * covariance[0, 0] ** 0.5  # t of two degrees of freedom
    assert (law.interval.high - law.exponent) == pytest.approx(reach, rel=1e-5)
