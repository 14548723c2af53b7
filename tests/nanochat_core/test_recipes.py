"""Recipes, and what is derived where they leave a field empty."""

import pytest

from nanochat_core import recipes
from nanochat_core.errors import SpecError
from nanochat_core.recipes import RECIPES, recipe, resolve
from nanochat_core.specs import with_changes


def test_the_speedrun_has_the_published_horizon() -> None:
    assert resolve(recipe("speedrun")).pretrain.steps == 5568


@pytest.mark.parametrize(
    ("name", "gpus", "precision"),
    [
        ("speedrun", ["NVIDIA H100 80GB HBM3"] * 8, "fp8"),
        ("speedrun", ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"], "bf16"),
        ("speedrun", [], "bf16"),
        ("d16", ["NVIDIA GH200 480GB"], "fp8"),
        ("d14", ["NVIDIA H200"], "bf16"),
        ("classic_d20", ["NVIDIA H100 PCIe"], "bf16"),
    ],
)
def test_fp8_is_the_default_where_it_pays(name: str, gpus: list[str], precision: str) -> None:
    assert resolve(recipe(name), gpus).pretrain.precision == precision


def test_fp8_is_refused_on_gpus_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "visible_gpus", lambda visible: ("NVIDIA A100-SXM4-80GB",))
    with pytest.raises(
        SpecError, match=r"pretrain\.precision: 'fp8' needs GPUs that compute in it, here is NVIDIA A100"
    ):
        recipes.runnable(with_changes(recipe("speedrun"), {"pretrain.precision": "fp8"}))
    assert recipes.runnable(recipe("speedrun")).pretrain.precision == "bf16"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_and_leaves_nothing_of_the_model_empty(name: str) -> None:
    spec = resolve(recipe(name))
    empty = {name for name, value in spec.pretrain.model.model_dump().items() if value is None}
    assert empty == {"rope_base", "short_window"}  # given where a context is extended
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
    assert spec.midtrain is None or (spec.midtrain.batching, spec.midtrain.keep_optimizer) == ("stream", False)
    is_full = spec.pretrain.model.arch == "full"
    assert (spec.sft.batching, spec.sft.mask) == ("packed" if is_full else "padded", "assistant")
    assert spec.sft.batch_tokens is None and spec.sft.keep_optimizer == is_full


@pytest.mark.parametrize("name", [name for name in RECIPES if recipe(name).pretrain.model.arch == "full"])
def test_sft_of_the_full_recipes_is_pretraining_s_batch_and_goes_on_from_its_momentum(name: str) -> None:
    spec = resolve(recipe(name))
    assert spec.sft.batch_rows * spec.pretrain.model.sequence_len == spec.pretrain.total_batch_tokens
    assert spec.sft.keep_optimizer and spec.midtrain is None and spec.sft.start_from is None


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("classic")])
def test_mid_training_of_the_classic_recipes_learns_every_token(name: str) -> None:
    midtrain = recipe(name).midtrain
    assert midtrain is not None and midtrain.mask == "none"
