"""The OpenAPI document: requests made from it, good and bad, get what it promises, and never a bug of the server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.deployments.serving import fresh
from tests.fake_engine import FakeEngine
from tests.live_server import LiveServer, running_server

EXAMPLES = 4
SLOW_EXAMPLES = 100
OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/nanochat/info"),
]
# What fits the document may still ask for too much, or for what OpenAI's API has and this server has not.
TOO_STRICT = positive_data_acceptance


@pytest.fixture(scope="module")
def open_server() -> Iterator[LiveServer]:
    with running_server(FakeEngine(answer=lambda request: "yes")) as live:
        yield live


@pytest.fixture(scope="module")
def document(open_server: LiveServer) -> Any:
    return schemathesis.openapi.from_url(f"{open_server.url}/openapi.json")


def test_the_document_has_every_endpoint_and_no_status_of_the_framework(open_server: LiveServer) -> None:
    document = fresh.get(f"{open_server.url}/openapi.json").json()
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert found == set(OPERATIONS)
    statuses = {
        status for methods in document["paths"].values() for one in methods.values() for status in one["responses"]
    }
    assert "422" not in statuses and {"200", "400", "401", "404", "413", "429", "500", "503"} <= statuses
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "security" not in document
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    event = chat["200"]["content"]["text/event-stream"]["schema"]["properties"]["data"]
    end, as_json = event["anyOf"]
    chunk_name, problem_name = (kind["$ref"].rsplit("/", 1)[1] for kind in as_json["contentSchema"]["anyOf"])
    chunk = document["components"]["schemas"][chunk_name]
    assert end["const"] == "[DONE]" and "error" in document["components"]["schemas"][problem_name]["properties"]
    assert set(chunk["properties"]) >= {"choices", "usage", "nanochat_dropped_messages"}
    assert set(document["components"]["schemas"]["ToolUse"]["properties"]) == {"kind", "text"}
    assert "Retry-After" in chat["503"]["headers"]
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"top_k", "min_p", "ignore_eos", "use_tools"} <= set(fields)
    assert all(field.get("description") for field in fields.values())


def test_a_server_with_keys_says_so_in_its_document(shared: LiveServer) -> None:
    document = fresh.get(f"{shared.url}/openapi.json").json()
    (name,) = document["security"][0]
    assert document["components"]["securitySchemes"][name] == {"type": "http", "scheme": "bearer"}


def test_every_chunk_of_a_stream_is_as_the_document_says(open_server: LiveServer) -> None:
    document = fresh.get(f"{open_server.url}/openapi.json").json()
    for path, name, body in (
        (
            "/v1/chat/completions",
            "ChatCompletionChunk",
            {"messages": [{"role": "user", "content": "x"}], "logprobs": True},
        ),
        ("/v1/completions", "CompletionChunk", {"prompt": "x", "logprobs": 2, "echo": True}),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with fresh.stream("POST", open_server.url + path, json=body) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        assert len(events) > 3
        for event in events:
            jsonschema.validate(event, schema)


def test_the_page_about_the_api_asks_for_nothing_from_elsewhere(open_server: LiveServer) -> None:
    page = fresh.get(f"{open_server.url}/docs").text
    for _, path in OPERATIONS:
        assert f"{path}</code>" in page
    assert fresh.get(f"{open_server.url}/static/css/api.css").headers["content-type"].startswith("text/css")
    assert "<script" not in page and "http://" not in page and "https://" not in page and "nanochat_parts" not in page


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [(GenerationMode.POSITIVE, *operation) for operation in OPERATIONS]
    + [(GenerationMode.NEGATIVE, *operation) for operation in OPERATIONS if operation[0] == "POST"],
)
def test_what_is_made_from_the_document_is_answered_as_it_says(
    document: Any, mode: GenerationMode, method: str, path: str
) -> None:
    operation = document[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES if method == "POST" else 1,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=HealthCheck,
    )
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=[TOO_STRICT], timeout=60)

    check()


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_thousands_of_requests_from_the_document(open_server: LiveServer, tmp_path: Path) -> None:
    command = shutil.which("schemathesis", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert command
    done = subprocess.run(
        [
            *(
                command,
                "run",
                f"{open_server.url}/openapi.json",
                "--checks",
                "all",
                "--exclude-checks",
                TOO_STRICT.__name__,
            ),
            *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(SLOW_EXAMPLES)),
            *("--continue-on-failure", "--warnings", "off", "--request-timeout", "60"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
