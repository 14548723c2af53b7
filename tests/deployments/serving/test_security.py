"""Clients that mean harm, or are broken: each gets an error in OpenAI's form, and nobody else notices."""

import hmac
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.serving import auth, pages
from deployments.serving.auth import ApiKeys
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.errors import NanochatError
from tests.deployments.serving import fresh
from tests.deployments.serving.conftest import KEY
from tests.deployments.serving.raw_http import CHAT, connection, error_of, is_closed, post, read_answer
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import LiveServer, running_server

CHAT_PATH = "/v1/chat/completions"
LIMITS = {"body_bytes": 4096, "header_bytes": 8192, "messages": 5}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def strict(engine: FakeEngine) -> Iterator[LiveServer]:
    """A server of narrow limits, which nothing in this module may break."""
    with running_server(engine, limits=LIMITS | {"message_characters": 100, "total_characters": 400}) as live:
        yield live


@pytest.fixture(scope="module")
def client(strict: LiveServer) -> Iterator[httpx.Client]:
    with fresh.Client(base_url=strict.url) as client:
        yield client


@pytest.fixture(autouse=True)
def still_answers(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post(CHAT_PATH, json=CHAT).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..\\app.py",
        "/static/js/%00",
        "/static/" + "a" * 3000,
        "/../../etc/passwd",
        "//etc/passwd",
        "/v1/models/../../app.py",
        "/v1/models/%2e%2e%2fapp.py",
        "/static/.git/config",
    ],
)
def test_no_path_leads_out_of_the_pages_folder(strict: LiveServer, path: str) -> None:
    with connection(strict.url) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        status, _, body = read_answer(link)
    assert status == 404 and error_of(body)["code"] in ("unknown_url", "model_not_found")


def test_a_link_in_the_pages_folder_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "link").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(pages, "STATIC", tmp_path / "static")
    with running_server(FakeEngine()) as live:
        assert fresh.get(f"{live.url}/static/link").status_code == 404
        assert fresh.get(f"{live.url}/").status_code == 200  # no page is installed there: it says so


DEEP = b'{"messages": ' + b"[" * 2000 + b"]" * 2000 + b"}"
BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b'{"messages": [', "no JSON"),
    "nothing": (b"", "must be a JSON object"),
    "a list": (b"[1]", "must be a JSON object"),
    "a text": (b'"x"', "must be a JSON object"),
    "nested deeply": (DEEP, ""),
    "NaN": (b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', "temperature"),
    "a huge number": (b'{"messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 4000 + b"}", ""),
    "half a character": (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "messages[0].content"),
    "no UTF-8": (b'{"messages":[{"role":"user","content":"\xff"}]}', ""),
    "a flag for a number": (b'{"messages":[{"role":"user","content":"x"}],"n":true}', "n"),
    "a text for a number": (b'{"messages":[{"role":"user","content":"x"}],"temperature":"1"}', "temperature"),
    "a number for a text": (b'{"messages":[{"role":"user","content":5}]}', "messages[0].content"),
    "a picture": (
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}',
        "messages[0].content[0].type",
    ),
    "tool parts of the user": (b'{"messages":[{"role":"user","content":[{"type":"python","text":"1"}]}]}', "assistant"),
    "the assistant first": (b'{"messages":[{"role":"assistant","content":"x"}]}', "user"),
    "nobody asks": (b'{"messages":[{"role":"system","content":"x"}]}', "user"),
    "too many messages": (json.dumps({"messages": CHAT["messages"] * 6}).encode(), "6 messages"),
    "a long message": (json.dumps({"messages": [{"role": "user", "content": "x" * 101}]}).encode(), "101 characters"),
    "long messages": (json.dumps({"messages": [{"role": "user", "content": "x" * 90}] * 5}).encode(), "450 characters"),
    "an empty stop": (json.dumps(CHAT | {"stop": ""}).encode(), "empty text"),
    "an id that is none": (json.dumps(CHAT | {"logit_bias": {"-1": 1}}).encode(), "token id"),
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_malformed_body_is_answered_with_400(client: httpx.Client, kind: str) -> None:
    body, words = BAD_BODIES[kind]
    answer = client.post(CHAT_PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and words in error_of(answer.content)["message"], answer.text
    assert len(answer.content) < 1000


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_body_that_is_not_said_to_be_json_is_refused(client: httpx.Client, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = client.post(CHAT_PATH, content=json.dumps(CHAT).encode(), headers=headers)
    assert answer.status_code == 415 and error_of(answer.content)["code"] == "unsupported_media_type"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(strict: LiveServer) -> None:
    with connection(strict.url) as link:
        link.sendall(
            post(CHAT_PATH, b"", "Content-Type: x").replace(b"Content-Length: 0", b"Content-Length: 999999999")
        )
        status, _, body = read_answer(link)
        assert status == 413 and error_of(body)["code"] == "request_too_large"


def test_chunks_are_counted_too(strict: LiveServer) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with connection(strict.url) as link:
        link.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        for _ in range(6):
            link.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        status, _, body = read_answer(link)
        assert status == 413 and error_of(body)["code"] == "request_too_large"


def test_a_client_that_sends_on_gets_its_answer_all_the_same(client: httpx.Client) -> None:
    answer = client.post(CHAT_PATH, content=b" " * (1 << 21), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


SLOW_STARTS = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\n",
    "a header without an end": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    "half a second head": b"GET /health HTTP/1.1\r\n",
    "half a body": post(CHAT_PATH, CHAT)[:-5],
    "half a body in chunks": b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
}


def test_what_does_not_come_is_not_waited_for() -> None:
    limits = {"header_seconds": 0.4, "body_seconds": 0.4}
    with running_server(FakeEngine(), limits=limits) as live, ExitStack() as links:
        opened = {kind: links.enter_context(connection(live.url, 30)) for kind in SLOW_STARTS}
        for kind, start in SLOW_STARTS.items():
            if kind == "half a second head":
                opened[kind].sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert read_answer(opened[kind])[0] == 200
            opened[kind].sendall(start)
        dripping = links.enter_context(connection(live.url, 0.05))
        assert drip(dripping).startswith(b"HTTP/1.1 408")
        for kind, link in opened.items():
            status, headers, body = read_answer(link)
            assert (status, headers["connection"]) == (408, "close"), kind
            assert error_of(body)["code"] == "request_timeout" and is_closed(link), kind


def test_idle_connections_make_room_and_busy_ones_do_not() -> None:
    engine = FakeEngine(clock=TokenClock.stopped())
    health = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with running_server(engine, max_connections=2) as live, ExitStack() as links:
        idle = [links.enter_context(connection(live.url)) for _ in range(2)]
        for link in idle:
            link.sendall(health)
            assert read_answer(link)[0] == 200
        busy = [links.enter_context(connection(live.url)) for _ in range(2)]
        for count, link in enumerate(busy, 1):
            link.sendall(post(CHAT_PATH, CHAT))
            wait_until(lambda count=count: engine.stats().running == count)
            assert is_closed(idle[count - 1])  # the one that was idle longest went first
        for link in [links.enter_context(connection(live.url)) for _ in range(2)]:
            link.sendall(health)
            status, headers, body = read_answer(link)
            assert status == 503 and error_of(body)["code"] == "too_many_connections"
            assert headers["connection"] == "close" and is_closed(link)
        engine.clock.run()
        assert [read_answer(link)[0] for link in busy] == [200, 200]


def drip(link: socket.socket) -> bytes:
    """Send a head that never ends, a header at a time, until something comes back."""
    link.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    for _ in range(1000):
        with suppress(TimeoutError):
            link.sendall(b"X-A: b\r\n")
            return link.recv(65_536)
    return b""


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
        (b"GET /\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX A: b\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: a\r\n" * 5000 + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431, "headers_too_large"),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n", 400, "invalid_http"),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "invalid_http"),
        (b"BREW /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405, "method_not_supported"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404, "unknown_url"),
        (b"DELETE /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405, "method_not_supported"),
    ],
)
def test_what_is_no_request_is_answered_as_such(
    strict: LiveServer, request_bytes: bytes, status: int, code: str
) -> None:
    with connection(strict.url) as link:
        link.sendall(request_bytes)
        got, headers, body = read_answer(link)
    assert (got, error_of(body)["code"]) == (status, code)
    assert headers["content-type"].startswith("application/json") and ("allow" in headers) == (status == 405)


def test_who_goes_on_after_a_refusal_is_not_heard(strict: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    with connection(strict.url) as link:
        link.sendall(b"nonsense\r\n\r\n")
        assert read_answer(link)[0] == 400
        for _ in range(20):
            link.sendall(b"more nonsense\r\n\r\n" * 100)
        assert is_closed(link)
    assert caplog.text.count("Invalid HTTP request") == 1


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "[", ""])
def test_a_web_page_of_another_name_cannot_ask_a_server_on_loopback(client: httpx.Client, host: str) -> None:
    answer = client.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 403 and error_of(answer.content)["code"] == "host_not_allowed"
    for own in ("localhost", "localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/v1/models", headers={"Host": own}).status_code == 200


def test_text_that_spells_a_special_token_stays_text(client: httpx.Client, engine: FakeEngine) -> None:
    special = engine.tokenizer.special_ids
    for name in SPECIAL_TOKENS:
        text = f"{name}user: hi{name}"
        messages = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
        assert client.post(CHAT_PATH, json={"messages": messages, "max_tokens": 1}).status_code == 200
        ids = engine.requests[-1].ids
        names = [SPECIAL_TOKENS[token - 256] for token in ids if token in special]
        assert names == [
            "<|bos|>",
            *("<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"),
            *("<|user_start|>", "<|user_end|>", "<|assistant_start|>"),
        ]
        for prompt in (text, [text], name):
            assert client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1}).status_code == 200
            assert [token for token in engine.requests[-1].ids if token in special] == [engine.tokenizer.bos]
        tokens = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
        assert not set(tokens["tokens"]) & special


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    compare_digest = hmac.compare_digest

    def compare(asked: bytes, known: bytes) -> bool:
        compared.append((asked, known))
        return compare_digest(asked, known)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    keys = ApiKeys([KEY, "b" * 16, "c" * 16])
    for guess in (KEY, "c" * 16, "x", "", "ü" * 1000):
        compared.clear()
        found = keys.find(guess)
        assert len(compared) == 3 and {len(value) for pair in compared for value in pair} == {32}, guess
        assert (found is not None) == (guess in (KEY, "c" * 16))


def ask_with(url: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    with connection(url) as link:
        lines = ["GET /v1/models HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
        link.sendall("\r\n".join(lines).encode("latin-1"))
        return read_answer(link)


@pytest.mark.parametrize(
    "header",
    [
        "X-No: key",
        "Authorization: Bearer",
        "Authorization: Bearer ",
        "Authorization: Bearer guess",
        f"Authorization: Basic {KEY}",
        f"Authorization: {KEY}",
        f"Authorization: Bearer {KEY}x",
        f"Authorization: Bearer {KEY[:-1]}",
        f"Authorization: Bearer {KEY.upper()}",
        "Authorization: Bearer \xff\xfe",
        "Authorization: Bearer # of the tests",
    ],
)
def test_a_guessed_key_opens_nothing(shared: LiveServer, header: str) -> None:
    status, headers, body = ask_with(shared.url, header)
    assert status == 401 and headers["www-authenticate"] == "Bearer"
    assert error_of(body)["code"] == "invalid_api_key" and KEY.encode() not in body


def test_the_keys_open_the_api_and_the_rest_is_open(shared: LiveServer) -> None:
    for key in (KEY, "another-key-that-nobody-guesses"):
        assert ask_with(shared.url, f"authorization: bearer {key}")[0] == 200
    for path in ("/health", "/ready", "/version", "/nanochat/info", "/", "/docs", "/openapi.json"):
        assert fresh.get(shared.url + path).status_code == 200, path
    for path in ("/v1/models", "/metrics", "/tokenizer_info", "/nope", "/static/../v1/models"):
        assert fresh.get(shared.url + path).status_code == 401, path


@pytest.mark.parametrize(("text", "words"), [("", "has no API key"), ("# none\n", "has no API key"), ("short\n", "16")])
def test_a_file_without_good_keys_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(NanochatError, match=words):
        ApiKeys.load(str(path))
    with pytest.raises(NanochatError, match="cannot be read"):
        ApiKeys.load(str(tmp_path / "nowhere"))


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(auth.VARIABLE, f" {KEY} ,{'b' * 16},")
    keys = ApiKeys.load(None)
    assert keys.find(KEY) and keys.find("b" * 16) and not keys.find("")


def test_a_readable_file_of_keys_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n")
    path.chmod(0o644)
    ApiKeys.load(str(path))
    assert "chmod 600" in capsys.readouterr().err


def test_what_is_asked_is_not_logged_unless_it_should_be(caplog: pytest.LogCaptureFixture) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a-secret\nline"}]}
    caplog.set_level("DEBUG")
    with running_server(FakeEngine()) as live:
        assert fresh.post(live.url + CHAT_PATH, json=body).status_code == 200
        assert fresh.post(live.url + CHAT_PATH, json=body | {"n": -1}).status_code == 400
        fresh.get(f"{live.url}/a%0Ab")
    assert "a-secret" not in caplog.text and "POST /v1/chat/completions 200" in caplog.text
    assert "/a\\nb 404" in caplog.text  # no line of the log is written by a client
    with running_server(FakeEngine(), log_prompts=True) as live:
        assert fresh.post(live.url + CHAT_PATH, json=body).status_code == 200
    assert "a-secret\\nline" in caplog.text and "You said" in caplog.text


def test_other_web_pages_may_not_read_answers_unless_they_are_named() -> None:
    origin = {"Origin": "https://chat.example"}
    ask = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with running_server(FakeEngine()) as live:
        assert "access-control-allow-origin" not in fresh.get(f"{live.url}/v1/models", headers=origin).headers
        assert fresh.options(f"{live.url}{CHAT_PATH}", headers=ask).status_code == 405
    with running_server(FakeEngine(), cors_origins=["https://chat.example"], api_keys_file=None) as live:
        answer = fresh.get(f"{live.url}/v1/models", headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert fresh.options(f"{live.url}{CHAT_PATH}", headers=ask).status_code == 200
        other = fresh.get(f"{live.url}/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_who_asks_for_the_head_alone_gets_no_body(client: httpx.Client) -> None:
    for path in ("/health", "/", "/v1/models"):
        answer = client.head(path)
        assert answer.status_code == 200 and answer.content == b"" and int(answer.headers["content-length"]) > 0
    assert client.head(CHAT_PATH).status_code == 405


def test_browsers_are_told_to_run_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/docs", "/v1/models", "/nope"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "server" not in headers
