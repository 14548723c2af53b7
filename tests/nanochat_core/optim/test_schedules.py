import functools
import itertools

from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.optim.schedules import muon_momentum, rate_multiplier
from nanochat_core.specs import OptimizerSpec

shares = functools.partial(st.floats, 0, allow_subnormal=False)  # another test may have torch flush them


@given(st.integers(1, 500), shares(0.5), shares(0.5), shares(1))
def test_the_rate_rises_stays_and_falls_between_its_bounds(
    steps: int, warmup: float, warmdown: float, final: float
) -> None:
    spec = OptimizerSpec(warmup_ratio=warmup, warmdown_ratio=warmdown, final_lr_ratio=final)
    rates = [rate_multiplier(spec, step, steps) for step in range(steps)]
    changes = [after - before for before, after in itertools.pairwise(rates)]
    rising = max(0, round(warmup * steps) - 1)
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    assert all(change > 0 for change in changes[:rising])
    assert all(change <= 1e-12 for change in changes[rising:])  # rounding may lift a rate that stands still


def test_the_classic_rate_falls_to_nothing_over_the_last_fifth() -> None:
    rates = [rate_multiplier(OptimizerSpec(), step, 100) for step in range(100)]
    assert rates[:81] == [1.0] * 81
    assert rates[99] == 0.05


def test_muon_s_momentum_rises_over_300_steps() -> None:
    assert [round(muon_momentum(step), 3) for step in (0, 150, 300, 1000)] == [0.85, 0.9, 0.95, 0.95]
