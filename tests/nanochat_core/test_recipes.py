"""Recipes, and what is derived where they leave a field empty."""

import pytest

from nanochat_core import recipes
from nanochat_core.errors import SpecError
from nanochat_core.recipes import RECIPES, recipe, resolve
from nanochat_core.specs import with_changes


def test_the_speedrun_has_the_published_horizon_and_cannot_run_yet() -> None:
    spec = resolve(recipe("speedrun"))
    assert spec.pretrain.steps == 5568
    reason = recipes.unsupported(spec)
    assert reason and "\n" not in reason and "fp8" in reason


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_and_leaves_nothing_of_the_model_empty(name: str) -> None:
    spec = resolve(recipe(name))
    assert None not in spec.pretrain.model.model_dump().values()
    assert resolve(spec) == spec


def test_another_depth_derives_another_width_batch_and_horizon() -> None:
    small, large = (
        resolve(with_changes(recipe("classic_d20"), {"pretrain.model.depth": depth})).pretrain for depth in (10, 20)
    )
    assert (small.model.n_embd, large.model.n_embd) == (640, 1280)
    assert small.steps < large.steps


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
