"""The numbers that derive from a recipe, against the published ones."""

import pytest

from nanochat_core import recipes
from nanochat_core.errors import SpecError
from nanochat_core.model.accounting import scaling_parameters
from nanochat_core.recipes import RECIPES, plan, recipe, resolve
from nanochat_core.specs import ModelSpec, with_changes

# depth: width, heads, total and scaling parameters in millions, FLOPs a token; then at ratio 12: tokens in billions,
# batch in tokens, steps, rate factor of the batch, Muon's weight decay, training FLOPs
FULL = {
    4: (256, 2, 36.7, 11.5, 80200000.0, 0.14, 262144, 528, 0.707, 1.89, 1.1e16),
    8: (512, 4, 125.8, 41.9, 296000000.0, 0.5, 262144, 1920, 0.707, 0.52, 1.5e17),
    10: (640, 5, 196.0, 70.1, 496000000.0, 0.84, 524288, 1605, 1, 0.44, 4.2e17),
    12: (768, 6, 286.3, 110.1, 760000000.0, 1.32, 524288, 2520, 1, 0.28, 1e18),
    16: (1024, 8, 536.9, 234.9, 1590000000.0, 2.82, 524288, 5376, 1, 0.131, 4.5e18),
    18: (1152, 9, 701.9, 324.4, 2180000000.0, 3.89, 1048576, 3712, 1.414, 0.134, 8.5e18),
    20: (1280, 10, 896.5, 435.2, 2890000000.0, 5.22, 1048576, 4980, 1.414, 0.1, 1.5e19),
    22: (1408, 11, 1123.2, 569.5, 3760000000.0, 6.83, 1048576, 6517, 1.414, 0.0766, 2.6e19),
    24: (1536, 12, 1384.1, 729.8, 4780000000.0, 8.76, 1048576, 8352, 1.414, 0.0597, 4.2e19),
    26: (1664, 13, 1681.8, 918.4, 5990000000.0, 11.0, 1048576, 10510, 1.414, 0.0475, 6.6e19),
    32: (2048, 16, 2818.6, 1677.7, 10800000000.0, 20.1, 2097152, 9600, 2, 0.0368, 2.2e20),
}


@pytest.mark.parametrize("depth", FULL)
def test_the_full_models_have_the_published_sizes_and_horizons(depth: int) -> None:
    width, heads, total, scale, flops, tokens, batch, steps, rate, decay, training_flops = FULL[depth]
    changes = {"pretrain.model.arch": "full", "pretrain.model.depth": depth, "pretrain.tokens_per_parameter": 12.0}
    numbers = plan(resolve(with_changes(recipe("classic_d20"), changes | {"tokenizer.vocab_size": 32_768})))
    assert (numbers["width"], numbers["query heads"], numbers["key/value heads"]) == (width, heads, heads)
    assert (numbers["batch (tokens)"], numbers["steps"]) == (batch, steps)
    assert numbers["parameters, total"] / 1e6 == pytest.approx(total, abs=0.06)
    assert scaling_parameters(ModelSpec(arch="full", depth=depth), 32_768) / 1e6 == pytest.approx(scale, abs=0.06)
    assert numbers["FLOPs per token"] == pytest.approx(flops, rel=0.005)
    assert numbers["training tokens"] / 1e9 == pytest.approx(tokens, abs=0.06)
    assert numbers["rate factor of the batch"] == pytest.approx(rate, abs=0.001)
    assert numbers["Muon weight decay"] == pytest.approx(decay, rel=0.01)
    assert numbers["training FLOPs"] == pytest.approx(training_flops, rel=0.05)


def test_the_100_dollar_run_has_its_published_numbers() -> None:
    numbers = plan(resolve(recipe("classic_d20")))
    assert numbers["parameters, total"] == 560_988_160
    assert numbers["training FLOPs"] == pytest.approx(4e19, rel=0.03)
    assert (numbers["layers"], numbers["vocabulary (tokens)"], numbers["Muon weight decay"]) == (20, 65_536, 0.0)
    assert numbers["shards for the tokenizer"] == 9  # of 250 million characters, for 2 billion and a tenth
    assert numbers["tokens on disk (bytes)"] == 25_000_000_000  # two for each of 240 shards' tokens


def test_tokens_on_disk_take_two_bytes_four_of_a_large_vocabulary_or_none() -> None:
    local = with_changes(recipe("demo"), {"download.local_characters": 4_800_000})
    assert plan(resolve(local))["tokens on disk (bytes)"] == 2_000_000
    large = with_changes(recipe("classic_d20"), {"tokenizer.vocab_size": 65_537})
    assert plan(resolve(large))["tokens on disk (bytes)"] == 50_000_000_000
    on_the_fly = with_changes(large, {"pretrain.runtime.tokens": "on_the_fly"})
    assert plan(resolve(on_the_fly))["tokens on disk (bytes)"] == 0
    own = recipe("classic_d20", data="path", path="/data")
    assert plan(resolve(own))["tokens on disk (bytes)"] is None


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
    assert reason and "\n" not in reason and "fp8" in reason


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
    with pytest.raises(SpecError, match=r"(?s)n_head: width 128 is not divisible by 3.*total_batch_tokens: 100"):
        resolve(spec)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_batch_conversations_as_the_reference_does(name: str) -> None:
    spec = recipe(name)
    assert spec.midtrain is None or spec.midtrain.batching == "stream"
    assert spec.sft.batching == "padded" and spec.sft.batch_tokens is None
