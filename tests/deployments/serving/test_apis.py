"""What the server says of itself and of its tokenizer, and what is its own in the API."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import jinja2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.serving.usage import Usage
from nanochat_core.inference.requests import Request, ScoredToken, Update
from tests.deployments.serving import fresh
from tests.fake_engine import FakeEngine
from tests.live_server import LiveServer, running_server

PARTS = [
    {"type": "text", "text": "It is "},
    {"type": "python", "text": "12*7"},
    {"type": "python_output", "text": "84"},
    {"type": "text", "text": "84."},
]
BOS, END = 256, 260


def answer(request: Request) -> Any:
    return PARTS if request.sampling.use_tools else "no tool"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(answer=answer, max_context=256)


@pytest.fixture(scope="module")
def live(engine: FakeEngine) -> Iterator[LiveServer]:
    with running_server(engine, root_path="/proxied") as live:
        yield live


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[httpx.Client]:
    with fresh.Client(base_url=live.url.removesuffix("/proxied")) as client:
        yield client


def chat(client: httpx.Client, messages: Any = "12*7?", **fields: Any) -> dict[str, Any]:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    answer = client.post("/v1/chat/completions", json={"messages": messages} | fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_tool_calls_are_parts_beside_the_text(client: httpx.Client) -> None:
    message = chat(client)["choices"][0]["message"]
    assert message["content"] == "It is 84." and message["nanochat_parts"] == PARTS
    assert chat(client, use_tools=False)["choices"][0]["message"]["content"] == "no tool"


def test_tool_calls_are_streamed_apart_from_the_text(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "12*7?"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    deltas = [choice["delta"] for line in lines[:-1] for choice in httpx.Response(200, content=line).json()["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "It is 84."
    own = [delta["nanochat"] for delta in deltas if "nanochat" in delta]
    for kind, text in (("python", "12*7"), ("python_output", "84")):
        assert "".join(item["text"] for item in own if item["kind"] == kind) == text


def test_a_chat_that_is_too_long_says_what_it_has_left_out(client: httpx.Client, engine: FakeEngine) -> None:
    turns = [{"role": "user", "content": "u" * 40}, {"role": "assistant", "content": "a" * 40}] * 4
    messages = [{"role": "system", "content": "S"}, *turns, {"role": "user", "content": "last"}]
    whole = chat(client, messages, max_tokens=5)
    assert whole["nanochat_dropped_messages"] == 4
    asked = engine.tokenizer.decode(engine.requests[-1].ids)
    assert asked.startswith("<|bos|><|user_start|>S\n\nuuu") and asked.count("<|user_start|>") == 3
    assert "nanochat_dropped_messages" not in chat(client, "short")
    with client.stream("POST", "/v1/chat/completions", json={"messages": messages, "stream": True}) as answer:
        first = next(answer.iter_lines())
    assert '"nanochat_dropped_messages":' in first
    refused = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x" * 300}]})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"


def test_an_answer_is_as_long_as_the_context_lets_it(client: httpx.Client, engine: FakeEngine) -> None:
    answer = chat(client, "x" * 200, max_tokens=4000, ignore_eos=True)
    assert answer["usage"]["total_tokens"] == 256 and answer["choices"][0]["finish_reason"] == "length"
    chat(client)
    assert engine.requests[-1].sampling.max_new_tokens == 256 - len(engine.requests[-1].ids)


def test_what_a_request_says_goes_to_the_engine(client: httpx.Client, engine: FakeEngine) -> None:
    chat(client, seed=-1, temperature=0, top_p=0.5, top_k=0, min_p=0.25, stop=["a", "b"], logit_bias={"5": -3.5})
    sampling = engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.0, 0.5, None, 0.25)
    assert sampling.stop == ("a", "b") and sampling.logit_bias == {5: -3.5} and sampling.seed == 2**63 - 1
    assert sampling.logprobs is None and sampling.prompt_logprobs is None
    chat(client)
    first = engine.requests[-1].sampling
    chat(client)
    assert (first.temperature, first.top_k, first.top_p) == (0.8, 50, 1.0)
    assert engine.requests[-1].sampling.seed != first.seed


def test_a_text_begins_as_in_training_and_ids_are_taken_as_they_are(client: httpx.Client, engine: FakeEngine) -> None:
    for prompt, fields, ids in (
        ("AB", {}, (BOS, 65, 66)),
        ("AB", {"add_special_tokens": False}, (65, 66)),
        ([65, 66], {}, (65, 66)),
        ("", {}, (BOS,)),
    ):
        body = {"prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 1} | fields
        choice = client.post("/v1/completions", json=body).json()["choices"][0]
        assert engine.requests[-1].ids == ids
        assert choice["text"] == ("AB" if prompt else "") + "n"
        assert choice["logprobs"]["tokens"] == list(choice["text"])  # BOS is not the client's


def test_usage_counts_tokens_not_updates() -> None:
    usage = Usage(10)
    usage.see(Update(0, tokens=(ScoredToken(1), ScoredToken(2)), cached_tokens=16))
    usage.see(Update(1, tokens=(ScoredToken(3),)))
    found = usage.object()
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (10, 3, 13)
    assert found["prompt_tokens_details"] == {"cached_tokens": 10}  # never more than there are


def test_tokens_there_and_back(client: httpx.Client) -> None:
    asked = {"prompt": "é<|bos|>", "return_token_strs": True}
    found = client.post("/tokenize", json=asked).json()
    assert found["tokens"] == [BOS, *"é<|bos|>".encode()] and found["count"] == len(found["tokens"])
    assert found["token_strs"][:3] == ["<|bos|>", "bytes:\\xc3", "bytes:\\xa9"] and found["max_model_len"] == 256
    assert client.post("/tokenize", json=asked | {"add_special_tokens": False}).json()["tokens"] == [
        *"é<|bos|>".encode()
    ]
    back = client.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert (
        back == {"prompt": "<|bos|>é<|bos|>"} and client.post("/detokenize", json={"tokens": []}).json()["prompt"] == ""
    )
    messages = [{"role": "user", "content": "a"}]
    ids = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": ids}).json()["prompt"] == (
        "<|bos|><|user_start|>a<|user_end|><|assistant_start|>"
    )
    fewer = client.post("/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()["tokens"]
    assert fewer == ids[:-1]
    for bad in ({}, {"prompt": "a", "messages": messages}):
        assert client.post("/tokenize", json=bad).status_code == 400
    assert client.post("/detokenize", json={"tokens": [9999]}).status_code == 400


def test_the_names_of_the_ends_are_told_as_ids(client: httpx.Client) -> None:
    info = client.get("/tokenizer_info").json()
    assert (info["bos_token_id"], info["eos_token_id"]) == (BOS, END)
    template = jinja2.Environment().from_string(info["chat_template"])
    rendered = template.render(messages=[{"role": "user", "content": "a"}], add_generation_prompt=True)
    assert rendered == "<|bos|><|user_start|>a<|user_end|><|assistant_start|>"
    for name in ("bos_token", "eos_token"):
        asked = {"prompt": info[name], "add_special_tokens": False}
        assert client.post("/tokenize", json=asked).json()["tokens"] == [info[f"{name}_id"]]


def test_the_page_is_told_what_it_needs(client: httpx.Client) -> None:
    info = client.get("/nanochat/info").json()
    assert info["model_name"] == "fake" and info["max_context"] == 256 and info["needs_key"] is False
    assert info["defaults"]["temperature"] == 0.8 and info["limits"]["message_characters"] == 8000
    assert client.get("/version").json()["version"] == info["version"]


def test_a_proxy_may_take_a_part_of_the_path_off(client: httpx.Client, live: LiveServer) -> None:
    assert live.url.endswith("/proxied")
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/proxied"}]
    assert client.get("/v1/models").status_code == 200 and client.get("/static/nowhere.js").status_code == 404
    assert client.get("/proxied/v1/models").status_code == 404  # the proxy should have taken it off


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    def numbers() -> Counter[str]:
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                found[f"{sample.name} {sample.labels.get('status', '')}"] += int(1000 * sample.value)
        return found

    before = numbers()
    usage = chat(client)["usage"]
    client.get("/nowhere")
    after = numbers()

    def gained(name: str) -> float:
        return (after[name] - before[name]) / 1000

    assert gained("nanochat:generation_tokens_total ") == usage["completion_tokens"]
    assert gained("nanochat:prompt_tokens_total ") == usage["prompt_tokens"]
    assert gained("nanochat:time_to_first_token_seconds_count ") == 1
    assert gained("nanochat:inter_token_latency_seconds_count ") == usage["completion_tokens"] - 1
    assert gained("nanochat:e2e_request_latency_seconds_count ") == 1
    assert gained("nanochat:request_success_total ") == 1 and gained("nanochat:request_errors_total 404") == 1
    assert {
        f"nanochat:{name} " for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    } <= set(after)
