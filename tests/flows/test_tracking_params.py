"""Few parameters on a parent run, and those that differ among them."""

from flows.tracking_params import ALWAYS, DERIVED, changed_params, parent_params
from nanochat_core.recipes import recipe, runnable
from nanochat_core.specs import with_changes


def test_a_run_of_the_recipe_as_it_is_shows_no_changes() -> None:
    params = parent_params(runnable(recipe("demo")))
    assert params.keys() == {*ALWAYS, *DERIVED.values()}
    assert params["pretrain.model.depth"] == "4"


def test_what_was_changed_is_shown_and_what_follows_from_it() -> None:
    spec = runnable(with_changes(recipe("demo"), {"sft.seed": 9, "midtrain": None, "run_name": "mine"}))
    assert changed_params(spec) == {"sft.seed": "9", "midtrain": "none"}
    assert "run_name" not in parent_params(spec)


def test_a_recipe_that_nobody_knows_has_nothing_to_compare_with() -> None:
    assert changed_params(recipe("demo").model_copy(update={"recipe": "mine"})) == {}
