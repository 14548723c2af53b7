from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.optim.schedules import muon_momentum, rate_multiplier
from nanochat_core.specs import OptimizerSpec


@given(st.integers(1, 500), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1))
def test_the_rate_rises_stays_and_falls_between_its_bounds(
    steps: int, warmup: float, warmdown: float, final: float
) -> None:
    spec = OptimizerSpec(warmup_ratio=warmup, warmdown_ratio=warmdown, final_lr_ratio=final)
    rates = [rate_multiplier(spec, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_classic_rate_falls_to_nothing_over_the_last_fifth() -> None:
    rates = [rate_multiplier(OptimizerSpec(), step, 100) for step in range(100)]
    assert rates[:81] == [1.0] * 81
    assert rates[99] == 0.05


def test_muon_s_momentum_rises_over_300_steps() -> None:
    assert [round(muon_momentum(step), 3) for step in (0, 150, 300, 1000)] == [0.85, 0.9, 0.95, 0.95]
