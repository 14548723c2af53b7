"""What flow runs are called."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.runtime import flow_run
from typer.main import get_command

from flows import cli
from flows.run_names import command_of, named, run_name_of, what_is_new
from nanochat_core.recipes import RECIPES, recipe
from nanochat_core.specs import with_changes

OWN = [
    {"name": "dolly", "conversations": {"mixture": [{"path": "my dolly.jsonl"}]}, "batching": "padded"},
    {"name": "notes", "conversations": {"mixture": [{"task": "Documents", "weight": 2}]}, "after": "pretrain"},
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pretrain.model.depth": 6, "run_name": "it's mine", "midtrain": None},
        {"sft.conversations.mixture": [{"task": "Facts", "rows": 3}], "tokenizer.vocab_size": 500},
        {"download.source": "path", "download.path": "/some where/text", "task_data.source": "path"},
        {"finetune": OWN, "sft.evaluators": [{"name": "core", "every": 7}]},
    ],
)
def test_the_command_of_a_spec_asks_for_that_spec(changes: dict[str, Any]) -> None:
    spec = with_changes(recipe("demo"), changes)
    program, name, *arguments = shlex.split(command_of(spec))
    assert (program, name) == ("nanochat", "run")
    commands: dict[str, Any] = get_command(cli.app).commands  # type: ignore[attr-defined]
    options = commands["run"].make_context("run", arguments).params
    asked = {key: options[key] for key in ("data", "data_path", "changes", "force", "nproc_per_node", "run_name")}
    assert cli.build_spec(options["recipe"], **asked) == spec


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_new_in_a_recipe(name: str) -> None:
    assert what_is_new(recipe(name)) == {}
    assert run_name_of(recipe(name)) == f"{name}-d{recipe(name).pretrain.model.depth}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pretrain.model.depth": 6, "sft.steps": 3}, "demo-d6 sft.steps=3"),
        ({"run_name": "mine"}, "demo-d4"),
        ({"force": ["sft", "rl"]}, "demo-d4 force=sft,rl"),
        ({"midtrain": None, "launch.nproc_per_node": 2}, "demo-d4 midtrain=none launch.nproc_per_node=2"),
        ({"finetune": OWN}, "demo-d4 finetune=dolly,notes"),
        ({"sft.conversations.mixture": [{"task": "Facts"}]}, "demo-d4 sft.conversations.mixture=1 items"),
        (
            {"sft.seed": 1, "sft.steps": 2, "rl.seed": 3, "rl.steps": 4, "evaluate.seed": 5},
            "demo-d4 sft.steps=2 sft.seed=1 rl.steps=4 rl.seed=3 +1",
        ),
    ],
)
def test_a_run_is_named_by_recipe_depth_and_what_is_new(changes: dict[str, Any], expected: str) -> None:
    assert run_name_of(with_changes(recipe("demo"), changes)) == expected


def test_another_source_of_text_is_news_and_what_the_recipe_changes_with_it_is_not() -> None:
    assert run_name_of(recipe("demo", data="hub")) == "demo-d4 download.source=hub"
    assert run_name_of(recipe("classic_d20", data="path", path="/data")) == "classic_d20-d20 download.source=path"
    refused = with_changes(recipe("d12"), {"download.source": "local"})
    assert run_name_of(refused) == "d12-d12 download.source=local"
    assert run_name_of(with_changes(refused, {"recipe": "mine"})) == "mine-d12"


def test_a_stage_alone_is_named_first_and_the_name_is_of_the_running_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_run, "parameters", {"spec": recipe("demo")}, raising=False)
    assert named("sft")() == "sft-demo-d4"


@given(st.text(max_size=200))
def test_a_name_stays_short_whatever_is_typed_into_the_form(text: str) -> None:
    assert len(run_name_of(with_changes(recipe("demo"), {"download.dataset": text}))) <= 60
