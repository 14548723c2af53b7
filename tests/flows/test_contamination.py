"""The stage that searches the training text: what it looks for, when it runs, and what makes it run again."""

from flows.contamination import CONTAMINATION, contamination_spec
from flows.pipeline import pipeline
from nanochat_core.recipes import RECIPES, recipe
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages


def test_by_default_it_looks_for_what_is_evaluated_and_was_not_made_by_rule() -> None:
    classic = contamination_spec(recipe("classic_d20"))
    assert classic.chat_tasks == ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval")
    assert classic.core_tasks is None  # all of the bundle
    local = contamination_spec(recipe("demo"))
    assert (local.chat_tasks, local.core_tasks) == ((), ())
    some = with_changes(recipe("classic_d20"), {"contamination.chat_tasks": ["MMLU"], "contamination.ngram": 8})
    assert (contamination_spec(some).chat_tasks, contamination_spec(some).ngram) == (("MMLU",), 8)


def test_every_recipe_but_the_demo_has_it() -> None:
    assert [name for name in RECIPES if recipe(name).contamination is None] == ["demo"]


def test_another_set_of_tasks_is_another_result_and_threads_are_not() -> None:
    def output(**changes: object) -> dict[str, object]:
        return CONTAMINATION.params(with_changes(recipe("classic_d20"), changes)).output

    assert output() != output(**{"evaluate.chat_tasks": ["MMLU"]})
    assert output() == output(**{"contamination.num_workers": 3}) == output(**{"evaluate.temperature": 1.0})


def test_it_runs_last_where_the_spec_has_it(finished: FakeStages, short_spec: PipelineSpec) -> None:
    pipeline(with_changes(short_spec, {"contamination": {}}))
    assert finished.ran() == ["contamination"]
