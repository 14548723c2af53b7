"""The server over the real engine, with the smallest model there can be."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from deployments.serving.__main__ import main
from nanochat_core.inference.interface import LoglikelihoodRequest
from nanochat_core.inference.load import load_text_model
from nanochat_core.inference.service import EngineOptions, load_engine
from tests.deployments.serving import fresh
from tests.deployments.serving.lm_eval_tasks import CHOICE, QUESTIONS, write_tasks
from tests.deployments.serving.raw_http import CHAT, connection, post, read_until
from tests.deployments.serving.test_handover import free_port
from tests.deployments.serving.tiny_model import write_tiny_model
from tests.fake_engine import wait_until
from tests.live_server import LiveServer, running_server

PROJECT = Path(__file__).parents[3]
GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_model(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def live(folders: tuple[Path, Path]) -> Iterator[LiveServer]:
    with running_server(load_engine(*folders, options=EngineOptions(max_batch=8, max_waiting=64))) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[httpx.Client]:
    with fresh.Client(base_url=live.url) as client:
        yield client


def ask(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_stream_says_what_a_whole_answer_says(client: httpx.Client) -> None:
    whole = ask(client, "/v1/chat/completions", CHAT | GREEDY)["choices"][0]
    assert whole["finish_reason"] == "length" and whole["message"]["content"]
    with client.stream("POST", "/v1/chat/completions", json=CHAT | GREEDY | {"stream": True}) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["message"]["content"]


def test_equal_seeds_give_equal_answers_and_others_do_not(client: httpx.Client) -> None:
    def texts(**fields: Any) -> list[str]:
        body = {"prompt": "x", "temperature": 1.5, "top_k": 0, "max_tokens": 16, "ignore_eos": True, "n": 3} | fields
        return [choice["text"] for choice in ask(client, "/v1/completions", body)["choices"]]

    first = texts(seed=5)
    assert first == texts(seed=5) and len(set(first)) == 3
    assert first != texts(seed=6) and texts() != texts()


def test_prompts_are_scored_alike_alone_and_together(client: httpx.Client) -> None:
    prompts = [list(text.encode()) for text in ("hello", "a longer text, with more in it", "ü")]
    body = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 2}
    together = ask(client, "/v1/completions", body | {"prompt": prompts})["choices"]
    for prompt, choice in zip(prompts, together, strict=True):
        (alone,) = ask(client, "/v1/completions", body | {"prompt": prompt})["choices"]
        lists = choice["logprobs"]
        assert lists["token_logprobs"][1:] == pytest.approx(alone["logprobs"]["token_logprobs"][1:], abs=1e-4)
        assert len(lists["tokens"]) == len(prompt) + 1 and lists["token_logprobs"][0] is None
        for token, logprob, top in list(
            zip(*(lists[name] for name in ("tokens", "token_logprobs", "top_logprobs")), strict=True)
        )[1:]:
            assert top[token] == logprob and max(top.values()) >= logprob


def test_lm_eval_gives_the_log_likelihoods_of_our_scorer(
    live: LiveServer, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tasks(tmp_path)
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)
    results = evaluator.simple_evaluate(
        model="local-completions",
        model_args={"model": "fake", "base_url": f"{live.url}/v1/completions", "max_length": 256, "max_retries": 1},
        tasks=[CHOICE],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        batch_size=4,
        bootstrap_iters=0,
        log_samples=True,
        verbosity="ERROR",
    )
    assert results is not None
    scorer, asked, found = load_text_model(*folders), [], []
    for sample in results["samples"][CHOICE]:
        question = QUESTIONS[sample["doc_id"]]
        context = f"Question: {question['question']}\nAnswer:".encode()
        for choice, (logprob, is_greedy) in zip(question["choices"], sample["filtered_resps"], strict=True):
            asked.append(LoglikelihoodRequest(tuple(context + f" {choice}".encode()), len(context)))
            found.append((float(logprob), str(is_greedy)))
    ours = scorer.loglikelihood(asked)
    assert [score.logprob_sum for score in ours] == pytest.approx([logprob for logprob, _ in found], abs=1e-3)
    assert [str(score.is_greedy) for score in ours] == [is_greedy for _, is_greedy in found]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_rows(live: LiveServer, client: httpx.Client, stream: bool) -> None:
    engine = live.server.state.engine
    body = CHAT | {"max_tokens": 200, "ignore_eos": True, "n": 4, "stream": stream}
    with connection(live.url) as link:
        link.sendall(post("/v1/chat/completions", body))
        if stream:
            read_until(link, b'"content":')
        else:
            wait_until(lambda: engine.stats().running > 0)
    generated = engine.stats().generated_tokens
    wait_until(lambda: engine.stats().running == engine.stats().waiting == 0)
    assert engine.stats().generated_tokens - generated < 4 * 190
    assert "nanochat:num_requests_running{" in client.get("/metrics").text


def test_the_context_is_kept_to(client: httpx.Client) -> None:
    answer = ask(client, "/v1/completions", {"prompt": [65] * 250, "max_tokens": 100, "ignore_eos": True})
    assert answer["usage"]["total_tokens"] == 256
    assert (
        client.post("/v1/completions", json={"prompt": [65] * 256}).json()["error"]["code"] == "context_length_exceeded"
    )
    only = ask(client, "/v1/completions", {"prompt": [65] * 255, "max_tokens": 0, "echo": True, "logprobs": 0})
    assert len(only["choices"][0]["logprobs"]["tokens"]) == 255


@pytest.mark.slow
@pytest.mark.parametrize("engines", [None, 2])
def test_the_command_serves_until_it_is_stopped(
    folders: tuple[Path, Path], tmp_path: Path, engines: int | None
) -> None:
    port, status = free_port(), tmp_path / "status.json"
    spec = {"model_folder": str(folders[0]), "tokenizer_folder": str(folders[1]), "port": port, "model_name": "tiny"}
    spec |= {"engines": engines}
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"status_file": str(status), "drain_seconds": 5}))
    command = [sys.executable, "-m", "deployments.serving", str(tmp_path / "spec.json")]
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes) as process:
        try:
            wait_until(lambda: status.exists() and json.loads(status.read_text())["state"] == "ready", 120)
            url = json.loads(status.read_text())["url"]
            assert url == f"http://127.0.0.1:{port}"
            assert fresh.post(f"{url}/v1/chat/completions", json=CHAT | {"model": "tiny"}).status_code == 200
            children = psutil.Process(process.pid).children()
            assert len(children) == (engines or 0)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            assert not any(child.is_running() for child in children)
        finally:
            process.kill()
    assert process.returncode == 0 and json.loads(status.read_text())["state"] == "stopped"
    assert f"tiny answers at {url}" in out and "curl" in out and "Traceback" not in err


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{", "Cannot read"),
        ({"model_folder": "x", "tokenizer_folder": "y", "prot": 1}, "unknown field prot"),
        ({"model_folder": "x", "tokenizer_folder": "y", "port": 0}, "y/tokenizer.json"),
        ({"model_folder": "x", "tokenizer_folder": "y", "host": "no.such.host.invalid"}, "no.such.host.invalid"),
        ({"model_folder": "x", "tokenizer_folder": "y", "port": 0, "api_keys_file": "nowhere"}, "nowhere"),
    ],
)
def test_a_users_mistake_is_one_line(
    tmp_path: Path, spec: Any, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    (tmp_path / "spec.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))
    assert main([str(tmp_path / "spec.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_without_a_spec_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and "SPEC.json" in capsys.readouterr().err


def test_an_engine_that_dies_ends_the_server(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, status = load_engine(*folders, options=EngineOptions(max_batch=2)), tmp_path / "status.json"

    def step() -> None:
        raise MemoryError("no room")

    with running_server(engine, status_file=str(status)) as live:
        monkeypatch.setattr(engine._engine, "step", step)
        answer = fresh.post(f"{live.url}/v1/chat/completions", json=CHAT)
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_failed"
        wait_until(lambda: live.exit_code == 1)
    written = json.loads(status.read_text())
    assert written["state"] == "failed" and "no room" in written["error"]
