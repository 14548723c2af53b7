"""`nanochat sweep`: what its options mean, and what it refuses before Prefect starts."""

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.sweep_command import numbers, split_changes, sweep_spec
from nanochat_core.errors import SpecError
from nanochat_core.recipes import recipe


def test_options_become_a_sweep() -> None:
    spec = sweep_spec(recipe("demo"), kind="isoflop", depths="2,3, 4", budgets="1e12,3e12", own={"counted": "total"})
    assert (spec.depths, spec.budgets, spec.counted) == ((2, 3, 4), (1e12, 3e12), "total")


def test_changes_of_the_sweep_and_of_the_recipe_are_told_apart() -> None:
    assert split_changes(["with_core=true", "evaluate.core_examples=8"]) == (
        ["with_core=true"],
        ["evaluate.core_examples=8"],
    )


@pytest.mark.parametrize("text", ["2,x", "2;3", "2.5"])
def test_numbers_that_are_none_name_the_option(text: str) -> None:
    with pytest.raises(SpecError, match=f"--depths {text}: expected numbers with commas between them"):
        numbers(text, int, "--depths", "2,3,4")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--depths", "2,3"], "depths: kind isoflop needs 3 different depths or more, got 2; budgets: kind isoflop"),
        (["--depths", "2,3,4", "--budgets", "1e3"], "d2-1e3: 0 tokens are less than a step"),
        (["--depths", "2,3,4", "--kind", "isoflops"], "kind: Input should be 'isoflop' or 'miniseries'"),
        (["--depths", "2,3,4", "--budgets", "1e12", "--set", "counted=most"], "counted: Input should be 'horizon'"),
        (["--depths", "2,3,4", "--budgets", "1e12", "--set", "pretrain.stepps=1"], "unknown field pretrain.stepps"),
    ],
)
def test_a_sweep_that_does_not_fit_is_one_line_and_code_2(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["sweep", "demo", *arguments])
    assert done.exit_code == 2
    assert problem in done.stderr.replace("\n", " ")
