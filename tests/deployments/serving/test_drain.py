"""The end of a server: what runs may finish, what is new goes elsewhere."""

import json
from pathlib import Path

import httpx
import pytest

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
        assert httpx.get(f"{live.url}/ready").status_code == 200
        link.sendall(post("/v1/chat/completions", STREAM))
        wait_until(lambda: engine.stats().running == 1)
        live.server.stop()
        wait_until(lambda: state() == "draining")
        for path in ("/ready", "/health"):
            assert httpx.get(live.url + path).status_code == 503
        refused = httpx.post(f"{live.url}/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert error_of(refused.content)["code"] == "shutting_down" and refused.headers["Connection"] == "close"
        engine.clock.run()
        read_until(link, b"data: [DONE]")
    assert live.exit_code == 0 and state() == "stopped" and engine.is_closed and len(engine.finished) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_do_not_finish_end_with_an_error(stream: bool) -> None:
    engine = FakeEngine(clock=TokenClock.stopped())
    with running_server(engine, drain_seconds=0.2) as live, connection(live.url) as link:
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
