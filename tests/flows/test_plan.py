"""`nanochat plan`: one JSON object for programs, a table for people, one line for what cannot be."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.plan_table import GROUPS, PARTS
from nanochat_core.recipes import RECIPES
from nanochat_core.spec_base import Spec
from nanochat_core.specs import PretrainSpec

README = Path(__file__).parents[2] / "README.md"


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "160"})


def test_the_100_dollar_run_has_its_published_numbers_for_programs() -> None:
    result = plan("classic_d20", "--json")
    assert result.exit_code == 0 and result.stderr == ""
    numbers = json.loads(result.stdout)
    assert numbers["parameters"] == 560_988_160
    assert numbers["tokens"] == 11_219_763_200
    assert numbers["tokens_per_step"] == 524_288
    assert numbers["steps"] == 21_400
    assert numbers["steps_from"] == "11,219,763,200 / 524,288 = 21,400.0 -> 21,400"
    assert f"{numbers['flops']:.1e}" == "3.9e+19"


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_planned_for_hardware_that_is_not_here(recipe: str) -> None:
    numbers = json.loads(plan(recipe, "--json", "--hardware", "8xH100").stdout)
    assert all(key.replace("_", "").isalnum() and key == key.lower() for key in keys(numbers))
    assert numbers["hardware"]["ranks"] == 8
    assert numbers["seconds"] > 0 and numbers["dollars"] > 0
    assert 0 < numbers["training_bytes"] <= 0.9 * numbers["hardware"]["memory_bytes"]
    assert set(numbers["parameters_by_group"]) <= set(GROUPS) and set(numbers["training_bytes_by_part"]) == set(PARTS)


def test_people_get_a_table_with_the_same_numbers() -> None:
    lines = plan("classic_d20", "--hardware", "8xH100").stdout.splitlines()
    for words in (
        ("parameters", "560,988,160"),
        ("matrices of the layers", "393,216,000", "70.1%"),
        ("steps", "21,400", "11,219,763,200 / 524,288 = 21,400.0 -> 21,400"),
        ("FLOPs", "3.918e+19"),
        ("hardware", "8x H100"),
        ("device batch", "32 rows", "65,536 tokens"),
        ("estimate", "of 80.0 GiB"),
        ("pretraining", "2 h 44 min", "at 50% of 990 TFLOP/s in bf16"),
        ("cost", "$65.99", "$3.00 a GPU hour"),
        ("training shards", "240"),
    ):
        assert any(all(word in line for word in words) for line in lines), words


def test_what_is_unknown_is_called_so() -> None:
    result = plan("d12", "--hardware", "2xT4")
    assert any("pretraining" in line and "unknown" in line for line in result.stdout.splitlines())
    assert "Note: Time and cost are unknown: T4 has no bf16 of its own" in result.stdout


def test_the_plans_in_the_readme_can_be_made() -> None:
    commands = re.findall(r"nanochat plan ([^#\n]+)", README.read_text(encoding="utf-8"))
    assert len(commands) >= 3
    for command in commands:
        assert plan(*command.split()).exit_code == 0, command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clasic_d20", "--json"), "Unknown recipe 'clasic_d20' (did you mean 'classic_d20'?)"),
        (("classic_d20", "--hardware", "8xH10"), "Unknown hardware '8xH10' (did you mean 'H100'"),
        (("classic_d20", "--hardware", ""), "Unknown hardware '' (known: B200"),
        (("classic_d20", "--hardware", "128xH100"), "fewer than 128 ranks"),
    ],
)
def test_what_cannot_be_planned_ends_in_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = plan(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr and "Traceback" not in result.stderr


def numeric_fields(kind: type[Spec], path: str) -> Iterator[tuple[str, bool]]:
    """Yield the dotted name of every field that takes numbers, and whether these are whole, groups inside included."""
    for name, info in kind.model_fields.items():
        types = set(get_args(info.annotation)) or {info.annotation}
        if int in types or float in types:
            yield f"{path}.{name}", float not in types
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Spec):
            yield from numeric_fields(info.annotation, f"{path}.{name}")


NUMERIC = dict(numeric_fields(PretrainSpec, "pretrain"))
ZERO_IS_FINE = {  # none of it, or from the first step on
    "pretrain.optimizer.final_lr_ratio",
    "pretrain.optimizer.momentum_final",
    "pretrain.optimizer.momentum_peak",
    "pretrain.optimizer.momentum_steps",
    "pretrain.optimizer.warmdown_ratio",
    "pretrain.optimizer.warmup_steps",
    "pretrain.optimizer.weight_decay",
    "pretrain.rollback",
    "pretrain.runtime.encoding_workers",
    "pretrain.seed",
}
HUGE_IS_FINE = {"pretrain.seed"}


def test_all_options_with_numbers_are_known() -> None:
    assert len(NUMERIC) > 30
    assert NUMERIC["pretrain.model.depth"] and not NUMERIC["pretrain.optimizer.lr_scale"]
    assert set(NUMERIC) >= ZERO_IS_FINE | HUGE_IS_FINE


@pytest.mark.parametrize("value", ["0", "-1", "1000000000000", "nan", "Infinity"])
@pytest.mark.parametrize("field", NUMERIC)
def test_a_number_that_makes_no_sense_is_refused_in_one_line(field: str, value: str) -> None:
    result = plan("demo", "--set", f"{field}={value}")
    if (value == "0" and field in ZERO_IS_FINE) or (value[0] == "1" and field in HUGE_IS_FINE):
        assert result.exit_code == 0, result.stderr
        return
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {field}: ") and result.stderr.count("\n") == 1
    assert value.strip("-") in result.stderr or "nan" in result.stderr or "inf" in result.stderr


@pytest.mark.parametrize("field", ["sft.epochs", "evaluate.temperature", "launch.retry_seconds"])
def test_infinity_is_refused_where_no_bound_is(field: str) -> None:
    result = plan("demo", "--set", f"{field}=Infinity")
    assert result.exit_code == 2
    assert result.stderr == f"error: {field}: Input should be a finite number (got inf)\n"
