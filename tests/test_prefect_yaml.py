"""prefect.yaml: what can be started from the UI, and what its forms stand on."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from nanochat_core.recipes import RECIPES, recipe
from nanochat_core.specs import Stage

PROJECT = Path(__file__).parents[1]
CONFIGURATION = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in CONFIGURATION["deployments"]}
STAGE_OF = {"train-tokenizer": ["tokenizer"], "download": ["download", "task_data"], "finetune": []}  # of no name yet


def tagged(tag: str) -> list[str]:
    return [name for name, entry in DEPLOYMENTS.items() if tag in entry["tags"]]


def form(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the JSON schema of the deployment's parameters, as Prefect sends it to the UI."""
    monkeypatch.chdir(PROJECT)
    return parameter_schema(load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])).model_dump_for_openapi()


def test_every_recipe_and_every_stage_has_a_deployment() -> None:
    assert tagged("pipeline") == list(RECIPES)
    assert all(f"recipe:{name}" in DEPLOYMENTS[name]["tags"] for name in RECIPES)
    stages = [stage for name in tagged("stage") for stage in STAGE_OF.get(name, [name])]
    assert sorted(stages) == sorted(get_args(Stage))


@pytest.mark.parametrize("name", RECIPES)
def test_the_form_of_a_recipe_stands_on_its_values_and_derives_the_rest(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = form(name, monkeypatch)["properties"]["spec"]["default"]
    assert default == recipe(name).model_dump(mode="json")
    if name != "demo":
        assert default["pretrain"]["steps"] is default["pretrain"]["model"]["n_embd"] is None


def test_the_form_of_a_stage_stands_on_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tagged("stage"):
        assert form(name, monkeypatch)["properties"]["spec"]["default"] == recipe("demo").model_dump(mode="json"), name


def test_every_deployment_says_what_it_does_and_runs_on_the_nodes_pool() -> None:
    for name, entry in DEPLOYMENTS.items():
        assert entry["description"].endswith("."), name
        assert entry["work_pool"]["name"] == "nanochat", name
        assert entry["tags"], name


def test_nothing_limits_how_many_runs_start_because_a_file_lock_queues_what_trains() -> None:
    assert not any("concurrency_limit" in entry for entry in DEPLOYMENTS.values())
