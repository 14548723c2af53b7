"""What a server is told: which values are taken, and what is said of those that are not."""

from typing import Any

import pytest

from nanochat_core.errors import SpecError
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec

FOLDERS = {"model_folder": "model", "tokenizer_folder": "tokenizer"}


def test_a_spec_comes_back_from_json_as_it_was() -> None:
    spec = parse_serve_spec(FOLDERS | {"port": 8001, "cors_origins": ["https://a.example"], "limits": {"messages": 7}})
    assert parse_serve_spec(spec.model_dump(mode="json")) == spec
    assert ServeSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.limits.messages == 7 and spec.host == "127.0.0.1" and spec.cors_origins == ("https://a.example",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prot": 1}, "unknown field prot"),
        ({"port": 70_000}, "port: "),
        ({"host": ""}, "host: "),
        ({"model_name": "a b"}, "model_name: "),
        ({"model_name": "../x"}, "model_name: "),
        ({"root_path": "api/"}, "root_path: "),
        ({"precision": "int3"}, "precision: "),
        ({"drain_seconds": -1}, "drain_seconds: "),
        ({"drain_seconds": float("nan")}, "drain_seconds: "),
        ({"limits": {"body_bytes": 1}}, "limits.body_bytes: "),
        ({"per_client": {"burst": 0}}, "per_client.burst: "),
        ({"sampling": {"temperature": 3}}, "sampling.temperature: "),
        ({"limits": {"max_tokens": 100}}, "sampling.max_tokens: 512 is more than limits.max_tokens allows (100)"),
        ({"max_waiting": 4}, "limits.samples: 16 answers at once never find room in a line of max_waiting (4)"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_serve_spec(FOLDERS | changes)
    assert words in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(SpecError, match="3 problems"):
        parse_serve_spec({"model_folder": "x", "port": -1, "name": "y"})
