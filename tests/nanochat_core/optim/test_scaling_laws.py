"""The joint law is found again in runs that follow it, and refused, or flagged, where runs cannot tell."""

import pytest

from nanochat_core.errors import DataError
from nanochat_core.optim.scaling_laws import CONSTANTS, JointLaw, Point, fit_joint_law
from tests.nanochat_core.optim.planted import LAW, best_parameters, run_of, runs


def flat(points: dict[float, list[Point]]) -> list[Point]:
    return [point for row in points.values() for point in row]


@pytest.mark.parametrize(
    "law",
    [
        LAW,
        JointLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),  # Besiroglu et al. 2024
        JointLaw(E=0.7, A=3.1e4, B=52.0, alpha=0.9, beta=0.12),
    ],
)
def test_the_constants_of_a_planted_law_are_found(law: JointLaw) -> None:
    found = fit_joint_law(flat(runs(law)), resamples=2)
    for name in CONSTANTS:
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-3), name
    assert found.error < 1e-6
    assert found.undetermined == ()


def test_six_runs_without_noise_are_enough() -> None:
    few = [run_of(LAW, c, size * best_parameters(LAW, c)) for c in (1e18, 1e20) for size in (0.1, 1, 10)]
    found = fit_joint_law(few, resamples=2).law
    assert (found.E, found.alpha, found.beta) == pytest.approx((LAW.E, LAW.alpha, LAW.beta), rel=1e-3)


def test_the_intervals_cover_the_planted_constants_under_noise() -> None:
    covered = dict.fromkeys((*CONSTANTS, "parameter_exponent"), 0)
    for seed in range(5):
        found = fit_joint_law(flat(runs(noise=0.003, seed=seed)), resamples=30, seed=seed)
        for name in covered:
            interval = found.intervals[name]
            assert interval.low < interval.high
            covered[name] += interval.low <= getattr(LAW, name) <= interval.high
        assert 0.001 < found.error < 0.005
    assert min(covered.values()) >= 4, covered


def test_more_noise_gives_wider_intervals() -> None:
    widths = []
    for noise in (0.001, 0.01):
        interval = fit_joint_law(flat(runs(noise=noise)), resamples=20).intervals["alpha"]
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]


def test_equal_seeds_give_equal_intervals() -> None:
    points = flat(runs(noise=0.003))
    first, second, other = (fit_joint_law(points, resamples=5, seed=seed).intervals for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_one_bad_run_hardly_moves_the_law() -> None:
    points = flat(runs())
    bad = points[9]
    points[9] = Point(bad.compute, bad.parameters, bad.tokens, 1.3 * bad.loss)
    found = fit_joint_law(points, resamples=2).law
    assert found.alpha == pytest.approx(LAW.alpha, rel=0.05)
    assert found.beta == pytest.approx(LAW.beta, rel=0.05)


def test_a_term_that_the_runs_do_not_show_is_named() -> None:
    found = fit_joint_law(flat(runs(JointLaw(E=1e-12, A=406.4, B=410.7, alpha=0.34, beta=0.28))), resamples=2)
    assert [reason.split(":")[0] for reason in found.undetermined] == ["E"]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (flat(runs())[:5], "needs 6 runs or more, got 5"),
        ([run_of(LAW, c, n) for c in (1e18, 1e19, 1e20) for n in (1e8, 1e9)], "3 different numbers of parameters"),
        ([run_of(LAW, 6 * n * 1e9, n) for n in (1e7, 2e7, 4e7, 8e7, 1e8, 2e8)], "3 different numbers of tokens"),
        (runs()[1e18], "one follows from the other"),
        ([run_of(LAW, 120 * n * n, n) for n in (1e7, 2e7, 4e7, 8e7, 1e8, 2e8)], "one follows from the other"),
        ([*flat(runs()), Point(1e18, 1e8, 1e9, float("nan"))], "positive finite numbers"),
    ],
)
def test_runs_that_cannot_determine_the_law_are_refused(points: list[Point], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_joint_law(points)


def test_the_exponents_of_the_best_size_add_up_to_one() -> None:
    assert LAW.parameter_exponent + LAW.token_exponent == pytest.approx(1)
    assert best_parameters(LAW, 1e20) / best_parameters(LAW, 1e18) == pytest.approx(100**LAW.parameter_exponent)
