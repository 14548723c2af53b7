"""The numbers that derive from a recipe, against the published ones."""

import pytest

from nanochat_core import recipes
from nanochat_core.errors import SpecError
from nanochat_core.model.accounting import flops_per_token, parameter_counts, scaling_parameters
from nanochat_core.optim import scaling
from nanochat_core.recipes import RECIPES, plan, recipe, resolve
from nanochat_core.specs import ModelSpec, with_changes

# depth: total parameters and scaling parameters in millions, FLOPs a token, steps at ratio 12, Muon's weight decay
FULL = {
    4: (36.7, 11.5, 8.02e7, 528, 1.890),
    8: (125.8, 41.9, 2.96e8, 1920, 0.520),
    10: (196.0, 70.1, 4.96e8, 1605, 0.440),
    12: (286.3, 110.1, 7.60e8, 2520, 0.280),
    16: (536.9, 234.9, 1.59e9, 5376, 0.131),
    18: (701.9, 324.4, 2.18e9, 3712, 0.134),
    20: (896.5, 435.2, 2.89e9, 4980, 0.100),
    22: (1123.2, 569.5, 3.76e9, 6517, 0.0766),
    24: (1384.1, 729.8, 4.78e9, 8352, 0.0597),
    26: (1681.8, 918.4, 5.99e9, 10510, 0.0475),
    32: (2818.6, 1677.7, 1.08e10, 9600, 0.0368),
}


@pytest.mark.parametrize("depth", FULL)
def test_the_full_models_have_the_published_sizes_and_horizons(depth: int) -> None:
    model, vocab_size = ModelSpec(arch="full", depth=depth), 32_768
    total, scale, flops, steps, decay = FULL[depth]
    assert parameter_counts(model, vocab_size)["total"] / 1e6 == pytest.approx(total, abs=0.06)
    assert scaling_parameters(model, vocab_size) / 1e6 == pytest.approx(scale, abs=0.06)
    assert flops_per_token(model, vocab_size) == pytest.approx(flops, rel=0.005)
    batch = scaling.batch_tokens(model, vocab_size, 12)
    assert scaling.horizon_tokens(model, vocab_size, 12) // batch == steps
    assert scaling.weight_decay(model, vocab_size, 12) == pytest.approx(decay, rel=0.01)


@pytest.mark.parametrize(
    ("name", "steps", "shards"),
    [
        ("classic_d20", 21_400, 240),
        ("classic_d26", 41_275, 450),
        ("classic_d30", 60_225, 650),
        ("classic_d32", 71_680, 800),
    ],
)
def test_the_classic_tiers_have_the_published_steps(name: str, steps: int, shards: int) -> None:
    numbers = plan(resolve(recipe(name)))
    assert (numbers["steps"], numbers["training shards"], numbers["batch (tokens)"]) == (steps, shards, 524_288)


def test_the_speedrun_has_the_published_horizon_and_cannot_run_yet() -> None:
    spec = resolve(recipe("speedrun"))
    assert plan(spec)["steps"] == 5568
    reason = recipes.unsupported(spec)
    assert reason and "\n" not in reason and "fp8" in reason and "full" in reason


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_and_leaves_nothing_of_the_model_empty(name: str) -> None:
    spec = resolve(recipe(name))
    assert None not in spec.pretrain.model.model_dump().values()
    assert resolve(spec) == spec


def test_another_depth_derives_another_width_batch_and_horizon() -> None:
    small, large = (
        plan(resolve(with_changes(recipe("classic_d20"), {"pretrain.model.depth": depth}))) for depth in (10, 20)
    )
    assert (small["width"], large["width"]) == (640, 1280)
    assert small["steps"] < large["steps"]


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'speedrun'\?"):
        recipe("speedrn")


def test_what_does_not_fit_together_is_said_at_once() -> None:
    spec = with_changes(recipe("demo"), {"pretrain.model.n_head": 3, "pretrain.total_batch_tokens": 100})
    with pytest.raises(SpecError, match=r"n_head: width 128 is not divisible by 3.*total_batch_tokens: 100"):
        resolve(spec)
