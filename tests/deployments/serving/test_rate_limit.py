"""How often one client may ask, and for how much at a time."""

import httpx
import pytest

from deployments.serving.errors import ApiError
from deployments.serving.rate_limit import MAX_CLIENTS, Clients
from nanochat_core.serve_spec import ClientLimits
from tests.deployments.serving import fresh
from tests.deployments.serving.conftest import KEY
from tests.deployments.serving.raw_http import CHAT, connection, error_of, post, read_answer
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import running_server


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_fills_at_the_rate_and_no_further_than_the_burst() -> None:
    clock = Clock()
    clients = Clients(ClientLimits(requests_per_minute=60, burst=3), clock)
    for _ in range(3):
        clients.enter("a")
    with pytest.raises(ApiError) as caught:
        clients.enter("a")
    assert caught.value.status == 429 and caught.value.headers["Retry-After"] == "1"
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    clients.enter("b")  # others are not concerned
    clock.now += 1
    clients.enter("a")
    with pytest.raises(ApiError):
        clients.enter("a")
    clock.now += 1000
    for _ in range(3):
        clients.enter("a")
    with pytest.raises(ApiError):
        clients.enter("a")


def test_clients_are_forgotten_but_not_those_who_wait() -> None:
    clients = Clients(ClientLimits(requests_per_minute=1, burst=1, concurrent=1), Clock())
    clients.enter("first")
    for index in range(2 * MAX_CLIENTS):
        clients.enter(f"client {index}").running -= 1
    assert len(clients) <= MAX_CLIENTS + 1
    with pytest.raises(ApiError, match="at a time"):
        clients.enter("first")


def test_a_client_that_asks_too_often_waits(key_file: object) -> None:
    limits = {"requests_per_minute": 1, "burst": 2}
    with running_server(FakeEngine(), per_client=limits, api_keys_file=str(key_file)) as live:

        def ask(key: str) -> httpx.Response:
            return fresh.post(f"{live.url}/tokenize", json={"prompt": "x"}, headers={"Authorization": f"Bearer {key}"})

        answers = [ask(KEY) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
        assert error_of(answers[2].content)["code"] == "rate_limit_exceeded"
        assert 50 <= int(answers[2].headers["Retry-After"]) <= 60
        assert ask("another-key-that-nobody-guesses").status_code == 200
        assert ask("guess").status_code == 401
        assert fresh.get(f"{live.url}/health").status_code == 200


def test_a_client_has_so_many_answers_at_a_time() -> None:
    engine = FakeEngine(clock=TokenClock.stopped())
    with running_server(engine, per_client={"concurrent": 1}) as live, connection(live.url) as link:
        link.sendall(post("/v1/chat/completions", CHAT))
        wait_until(lambda: engine.stats().running == 1)
        refused = fresh.post(f"{live.url}/v1/chat/completions", json=CHAT)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        engine.clock.run()
        assert read_answer(link)[0] == 200
        assert fresh.post(f"{live.url}/v1/chat/completions", json=CHAT).status_code == 200


def test_only_a_trusted_proxy_says_whose_request_it_is() -> None:
    limits = {"requests_per_minute": 1, "burst": 1}

    def statuses(trusted: list[str]) -> list[int]:
        with running_server(FakeEngine(), per_client=limits, trusted_proxies=trusted) as live:
            asked = [{"X-Forwarded-For": f"10.0.0.{number}"} for number in range(2)]
            answers = [fresh.post(f"{live.url}/tokenize", json={"prompt": "x"}, headers=headers) for headers in asked]
            return [answer.status_code for answer in answers]

    assert statuses([]) == [200, 429] and statuses(["127.0.0.1"]) == [200, 200]
