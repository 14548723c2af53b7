"""A client that goes away gives its place back at once: the token clock stands still, so no further step is needed."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.serving.metrics import PREFIX
from tests.deployments.serving import fresh
from tests.deployments.serving.raw_http import CHAT, connection, post, read_until
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import LiveServer, running_server

PROMPTS = {"model": "fake", "prompt": [f"prompt {index}" for index in range(4)], "max_tokens": 50}
STREAM = CHAT | {"stream": True}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(clock=TokenClock.stopped(), max_running=4)


@pytest.fixture(scope="module")
def server(engine: FakeEngine) -> Iterator[LiveServer]:
    with running_server(engine) as live:
        yield live


@pytest.fixture
def live(server: LiveServer, engine: FakeEngine) -> Iterator[LiveServer]:
    """The server, with nothing in its engine before the test and after it."""
    engine.clock.stop()
    engine.cancelled.clear()
    engine.finished.clear()
    yield server
    wait_until(lambda: engine.stats().running == engine.stats().waiting == server.server.state.in_flight == 0)


def number(live: LiveServer, name: str) -> float:
    """Return a number of /metrics."""
    lines = fresh.get(f"{live.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{PREFIX}{name}"))


@pytest.mark.parametrize(
    ("path", "body", "running"),
    [
        ("/v1/chat/completions", CHAT, 1),
        ("/v1/chat/completions", CHAT | {"n": 4}, 1),
        ("/v1/completions", PROMPTS, 4),
    ],
    ids=["chat", "chat with n", "completions of four prompts"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_frees_its_place_at_once(
    live: LiveServer, engine: FakeEngine, path: str, body: dict[str, Any], running: int, stream: bool
) -> None:
    aborted = number(live, "request_aborted_total")
    with connection(live.url) as link:
        link.sendall(post(path, body | {"stream": stream}))
        wait_until(lambda: engine.stats().running == running)
        engine.clock.advance(1)
        if stream:
            read_until(link, b'"Y"')
        assert number(live, "num_requests_running") == running
    wait_until(lambda: engine.stats().running == 0, seconds=20)
    assert len(engine.cancelled) == running and engine.finished == []
    wait_until(lambda: live.server.state.in_flight == 0)
    assert number(live, "num_requests_running") == 0
    assert number(live, "request_aborted_total") == aborted + 1


def test_who_leaves_the_line_is_never_computed(live: LiveServer, engine: FakeEngine) -> None:
    with connection(live.url) as first:
        first.sendall(post("/v1/completions", PROMPTS))
        wait_until(lambda: engine.stats().running == 4)
        with connection(live.url) as second:
            second.sendall(post("/v1/chat/completions", CHAT))
            wait_until(lambda: engine.stats().waiting == 1)
        wait_until(lambda: engine.stats().waiting == 0, seconds=20)
        assert engine.stats().running == 4
    wait_until(lambda: len(engine.cancelled) == 5, seconds=20)


def test_a_place_that_was_given_back_goes_to_the_next_in_line(live: LiveServer, engine: FakeEngine) -> None:
    with connection(live.url) as second:
        with connection(live.url) as first:
            first.sendall(post("/v1/completions", PROMPTS))
            wait_until(lambda: engine.stats().running == 4)
            second.sendall(post("/v1/chat/completions", STREAM))
            wait_until(lambda: engine.stats().waiting == 1)
        wait_until(lambda: engine.stats().waiting == 0 and engine.stats().running == 1, seconds=20)
        engine.clock.run()
        read_until(second, b"data: [DONE]")
    assert len(engine.cancelled) == 4 and len(engine.finished) == 1


def test_a_stream_begins_before_its_first_token(live: LiveServer, engine: FakeEngine) -> None:
    with connection(live.url) as link:
        link.sendall(post("/v1/chat/completions", STREAM))
        read_until(link, b'"role":"assistant"')
        assert engine.stats().steps == 0 or engine.stats().running == 1
        engine.clock.run()
        read_until(link, b"data: [DONE]")


def received(link: socket.socket) -> int:
    """Return how many bytes still come before the connection ends."""
    count = 0
    with contextlib.suppress(OSError):
        while data := link.recv(1 << 20):
            count += len(data)
    return count


def test_a_client_that_does_not_read_is_cut_off() -> None:
    engine = FakeEngine(max_context=1 << 22)
    body = {"prompt": "a" * (1 << 20), "echo": True, "max_tokens": 1, "n": 12}  # an answer of 12 MiB
    with running_server(engine, limits={"send_seconds": 0.3}) as live, connection(live.url) as link:
        link.sendall(post("/v1/completions", body))
        wait_until(lambda: len(engine.finished) == 1)
        wait_until(lambda: number(live, "http_connections") == 1)  # the one that asks
        assert received(link) < 12 << 20


def test_prompts_of_one_request_wait_for_each_other_and_never_fail_in_the_middle() -> None:
    engine = FakeEngine(answer=lambda request: "yes", max_running=2, max_waiting=1)
    body = {"prompt": ["a"] * 12, "max_tokens": 4, "stream": True}
    with running_server(engine, max_waiting=16) as live, connection(live.url) as link:
        link.sendall(post("/v1/completions", body))
        data = read_until(link, b"data: [DONE]")
    assert b"error" not in data and data.count(b'"finish_reason":"stop"') == 12


def test_a_request_of_which_nothing_finds_a_place_is_refused() -> None:
    engine = FakeEngine(clock=TokenClock.stopped(), max_running=1, max_waiting=0)
    with running_server(engine) as live, connection(live.url) as link:
        link.sendall(post("/v1/completions", {"prompt": "first"}))
        wait_until(lambda: engine.stats().running == 1)
        refused = fresh.post(f"{live.url}/v1/completions", json={"prompt": ["a"] * 5})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "overloaded"
