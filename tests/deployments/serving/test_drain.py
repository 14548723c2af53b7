"""The end of a server: what runs may finish, what is new goes elsewhere."""

import asyncio
import json
import threading
from pathlib import Path

import pytest

from deployments.serving import answer
from deployments.serving.greeting import greeting
from deployments.serving.server import Server, run
from nanochat_core.errors import CheckpointError
from nanochat_core.serve_spec import ServeSpec
from tests.deployments.serving import fresh
from tests.deployments.serving.raw_http import CHAT, connection, error_of, post, read_answer, read_until
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import running_server

STREAM = CHAT | {"stream": True}


def test_running_answers_finish_while_new_ones_are_refused(tmp_path: Path) -> None:
    engine, status = FakeEngine(clock=TokenClock.stopped()), tmp_path / "status.json"

    def state() -> str:
        return str(json.loads(status.read_text())["state"])

    with running_server(engine, drain_seconds=60, status_file=str(status)) as live, connection(live.url) as link:
        wait_until(lambda: state() == "ready")
        assert fresh.get(f"{live.url}/ready").status_code == 200
        link.sendall(post("/v1/chat/completions", STREAM))
        wait_until(lambda: engine.stats().running == 1)
        live.server.stop()
        wait_until(lambda: state() == "draining")
        for path in ("/ready", "/health"):
            assert fresh.get(live.url + path).status_code == 503
        refused = fresh.post(f"{live.url}/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert error_of(refused.content)["code"] == "shutting_down" and refused.headers["Connection"] == "close"
        engine.clock.run()
        read_until(link, b"data: [DONE]")
    assert live.exit_code == 0 and state() == "stopped" and engine.is_closed and len(engine.finished) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_do_not_finish_end_with_an_error(stream: bool) -> None:
    engine = FakeEngine(clock=TokenClock.stopped())
    with running_server(engine, drain_seconds=0.05) as live, connection(live.url) as link:
        link.sendall(post("/v1/chat/completions", CHAT | {"stream": stream}))
        wait_until(lambda: engine.stats().running == 1)
        engine.clock.advance(2)
        if stream:
            read_until(link, b'"o"')
        live.server.stop()
        if stream:
            event = read_until(link, b"error").split(b"data: ")[-1].split(b"\n\n")[0]
            assert error_of(event)["code"] == "shutting_down"
        else:
            status, headers, body = read_answer(link)
            assert status == 503 and headers["retry-after"] and error_of(body)["code"] == "shutting_down"
    assert live.exit_code == 0 and len(engine.cancelled) == 1


def test_a_dead_engine_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    engine, status = FakeEngine(clock=TokenClock.stopped()), tmp_path / "status.json"
    with running_server(engine, status_file=str(status)) as live, connection(live.url) as link:
        link.sendall(post("/v1/chat/completions", CHAT))
        wait_until(lambda: engine.stats().running == 1)
        engine.die("out of memory")
        code, _, body = read_answer(link)
        assert code == 500 and error_of(body)["code"] == "engine_failed"
        wait_until(lambda: live.exit_code is not None)
    written = json.loads(status.read_text())
    assert live.exit_code == 1 and written["state"] == "failed" and written["error"] == "out of memory"


def test_long_silences_are_broken_for_the_sake_of_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "PING_SECONDS", 0.1)
    engine = FakeEngine(clock=TokenClock.stopped())
    with running_server(engine) as live, connection(live.url) as link:
        link.sendall(post("/v1/chat/completions", STREAM))
        assert read_until(link, b": waiting\n\n").count(b"data: {") == 1
        engine.clock.advance(1)
        read_until(link, b'"Y"')
        read_until(link, b": waiting\n\n")
        engine.clock.run()
        read_until(link, b"data: [DONE]")


def test_while_the_model_loads_the_server_says_so(tmp_path: Path) -> None:
    loaded = threading.Event()

    def load(spec: ServeSpec) -> FakeEngine:
        assert loaded.wait(60)
        return FakeEngine()

    spec = ServeSpec(model_folder="x", tokenizer_folder="x", model_name="fake", port=0)
    server = Server(spec, load, folder=tmp_path)
    thread = threading.Thread(target=lambda: asyncio.run(server.run()))
    thread.start()
    try:
        wait_until(lambda: bool(server.url))
        for path in ("/health", "/ready", "/v1/models", "/nanochat/info"):
            answered = fresh.get(server.url + path)
            assert answered.status_code == 503 and error_of(answered.content)["code"] == "loading", path
        assert fresh.get(f"{server.url}/version").status_code == 200 and fresh.get(server.url).status_code == 200
        loaded.set()
        wait_until(lambda: server.state.is_ready)
        assert fresh.get(f"{server.url}/health").status_code == 200
    finally:
        loaded.set()
        server.stop()
        thread.join(60)


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (MemoryError("no room\nfor it"), 1, "error: the server has failed: MemoryError: no room for it"),
        (CheckpointError("The weights are damaged."), 2, "error: The weights are damaged."),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, problem: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(spec: ServeSpec) -> FakeEngine:
        raise problem

    status = tmp_path / "status.json"
    spec = ServeSpec(model_folder="x", tokenizer_folder="x", port=0, status_file=str(status))
    assert run(spec, load, folder=tmp_path, tell=lambda line: None) == code
    assert capsys.readouterr().err.splitlines() == [line] and json.loads(status.read_text())["state"] == "failed"


@pytest.mark.parametrize(("host", "words"), [("127.0.0.1", ""), ("0.0.0.0", "warning: whoever reaches 0.0.0.0")])
def test_the_terminal_says_where_and_how(host: str, words: str) -> None:
    spec = ServeSpec(model_folder="x", tokenizer_folder="x", model_name="sft", host=host)
    lines = greeting(spec, "http://127.0.0.1:8000", needs_key=False)
    assert lines[0] == "sft answers at http://127.0.0.1:8000" and any("curl" in line for line in lines)
    assert lines[-1].startswith(words or "  stop it")
    assert "Bearer" in "".join(greeting(spec, "http://127.0.0.1:8000", needs_key=True))
