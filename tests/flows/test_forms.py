"""The forms in Prefect's UI: what the JSON schema of each deployment's parameters says about every field."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

PROJECT = Path(__file__).parents[2]
Schema = dict[str, Any]

UNITS = [
    "answers",
    "bytes",
    "channels",
    "characters",
    "checkpoints",
    "completions",
    "connections",
    "conversations",
    "dollars",
    "examples",
    "files",
    "GB",
    "heads",
    "layers",
    "likeliest",
    "lines",
    "machines",
    "messages",
    "minutes",
    "nats",
    "norm",
    "pairs",
    "parameter",
    "passes",
    "points",
    "port",
    "processes",
    "prompts",
    "questions",
    "ranks",
    "rate",
    "rates",
    "rows",
    "samples",
    "seconds",
    "seed",
    "shards",
    "share",
    "steps",
    "temperature",
    "threads",
    "times",
    "tokens",
]


@cache
def forms() -> dict[str, Schema]:
    """Return {deployment: JSON schema}, one for each flow: recipes differ in their defaults alone."""
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    of_flow = {entry["entrypoint"].split(":")[0]: entry for entry in deployments}
    return {
        entry["name"]: parameter_schema(
            load_flow_from_entrypoint(str(PROJECT / entry["entrypoint"]))
        ).model_dump_for_openapi()
        for entry in of_flow.values()
    }


def fields() -> Iterator[tuple[str, Schema]]:
    """Yield (group.name, schema) of every field of every form."""
    for form in forms().values():
        for group, definition in form["definitions"].items():
            for name, field in definition["properties"].items():
                yield f"{group}.{name}", field


def types(field: Schema) -> set[str]:
    """Return the JSON types that a field may have."""
    return {part.get("type", "") for part in [field, *field.get("anyOf", [])]}


def test_every_field_is_described() -> None:
    assert len({name for name, _ in fields()}) > 100
    assert [name for name, field in fields() if not field.get("description")] == []


def test_every_number_says_what_it_counts() -> None:
    without = {
        name
        for name, field in fields()
        if types(field) & {"integer", "number"} and not set(re.findall(r"[a-zA-Z]+", field["description"])) & set(UNITS)
    }
    assert without == set()


def test_every_field_and_group_has_a_title_in_words() -> None:
    for name, field in fields():
        title, leaf = field["title"], name.split(".")[-1]
        assert re.match(r"[A-Z][A-Za-z]{2,}", title) or title == "Top k", name
        assert f"({leaf})" in title or re.sub(r"\W", "_", title.lower()) == leaf, f"{name}: {title} hides the field"


def test_what_has_few_values_is_a_choice() -> None:
    choices = {name for name, field in fields() if "enum" in str(field)}
    assert choices >= {
        "DownloadSpec.source",
        "TaskDataSpec.source",
        "TaskDataSpec.datasets",
        "ModelSpec.arch",
        "PretrainSpec.precision",
        "FinetuneSpec.mask",
        "FinetuneSpec.batching",
        "LaunchSpec.mode",
        "LaunchSpec.device",
        "PipelineSpec.force",
    }


def test_what_derives_is_empty_until_the_user_fills_it_in() -> None:
    derived = dict(fields())
    for name in ("ModelSpec.n_embd", "ModelSpec.n_head", "PretrainSpec.steps", "PretrainSpec.total_batch_tokens"):
        assert derived[name]["default"] is None, name
        assert types(derived[name]) >= {"integer", "null"}, name


def test_a_group_is_a_box_of_its_own() -> None:
    groups = {name: field["$ref"] for name, field in fields() if "$ref" in field}
    assert groups["PipelineSpec.pretrain"] == "#/definitions/PretrainSpec"
    assert groups["PretrainSpec.model"] == "#/definitions/ModelSpec"
