import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.optim.schedules import muon_decay, muon_momentum, rate_multiplier
from nanochat_core.recipes import RECIPES
from nanochat_core.specs import OptimizerSpec

shares = functools.partial(st.floats, 0, allow_subnormal=False)  # another test may have torch flush them


@given(st.integers(1, 500), shares(0.5), shares(0.5), shares(1))
def test_the_rate_rises_stays_and_falls_between_its_bounds(
    steps: int, warmup: float, warmdown: float, final: float
) -> None:
    warmup_steps = int(warmup * steps)
    spec = OptimizerSpec(warmup_steps=warmup_steps, warmdown_ratio=warmdown, final_lr_ratio=final)
    rates = [rate_multiplier(spec, step, steps) for step in range(steps)]
    changes = [after - before for before, after in itertools.pairwise(rates)]
    rising = max(0, warmup_steps - 1)
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    assert all(change > 0 for change in changes[:rising])
    assert all(change <= 1e-12 for change in changes[rising:])  # rounding may lift a rate that stands still


def test_the_classic_rate_falls_to_nothing_over_the_last_fifth() -> None:
    rates = [rate_multiplier(OptimizerSpec(), step, 100) for step in range(100)]
    assert rates[:81] == [1.0] * 81
    assert rates[99] == 0.05


def test_the_full_schedules_are_those_of_the_specification() -> None:
    spec, steps = RECIPES["d12"]().pretrain.optimizer.model_copy(update={"weight_decay": 0.28}), 2520
    assert [rate_multiplier(spec, step, steps) for step in (0, 19, 39, 40, 882)] == [1 / 40, 0.5, 1, 1, 1]
    assert rate_multiplier(spec, steps - 1, steps) == pytest.approx(0.05, abs=1e-3)
    assert [round(muon_momentum(spec, step, steps), 4) for step in (0, 200, 400, 882, 1701)] == [
        0.85,
        0.91,
        0.97,
        0.97,
        0.935,
    ]
    assert muon_momentum(spec, steps - 1, steps) == pytest.approx(0.90, abs=1e-3)
    assert [round(muon_decay(spec, step, steps), 4) for step in (0, 1260)] == [0.28, 0.14]


def test_muon_s_momentum_rises_over_300_steps() -> None:
    found = [round(muon_momentum(OptimizerSpec(), step, 2000), 3) for step in (0, 150, 300, 1999)]
    assert found == [0.85, 0.9, 0.95, 0.95]
