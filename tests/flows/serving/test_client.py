"""The first question to a server, and what is said of an answer that is none. A real server, in this process."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flows.prefect_server import free_port
from flows.serving.client import SmokeTest, first_answer, first_key, trouble_of
from nanochat_core.errors import NanochatError

PATIENT = SmokeTest(seconds=10)


class Handler(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, Any]]] = []  # the last one holds for all further requests
    asked: ClassVar[list[tuple[str, str | None, dict[str, Any]]]] = []

    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/ready" else 200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        code, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/behind/a/proxy"
    server.shutdown()
    server.server_close()


def ask(url: str, *answers: tuple[int, Any], test: SmokeTest = PATIENT, **options: Any) -> str:
    Handler.answers[:], Handler.asked[:] = answers, []
    given = {"is_chat": True, "key": None, "is_running": lambda: True} | options
    return first_answer(url, "nanochat", test, **given)


def chat(content: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **more}, "finish_reason": "stop"}]}


def test_a_chat_model_is_asked_a_question_and_a_base_model_gets_a_text_to_continue(url: str) -> None:
    assert ask(url, (200, chat("84")), key="secret") == "84"
    assert Handler.asked[0][:2] == ("/v1/chat/completions", "Bearer secret")
    assert ask(url, (200, {"choices": [{"text": " is"}]}), is_chat=False) == " is"
    path, key, body = Handler.asked[0]
    assert (path, key, body["prompt"], body["temperature"]) == ("/v1/completions", None, "What is 12*7?", 0)


def test_a_call_of_the_tool_is_an_answer(url: str) -> None:
    parts = [{"type": "python", "text": "12*7"}, {"type": "python_output", "text": "84"}]
    assert ask(url, (200, chat("", nanochat_parts=parts))) == "12*784"


def test_a_server_that_is_busy_is_asked_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.serving.client.BUSY_SECONDS", 0.01)
    assert ask(url, (503, {}), (429, {}), (200, chat("84")), test=SmokeTest(seconds=30)) == "84"
    assert len(Handler.asked) == 3
    with pytest.raises(NanochatError, match=r"busy all the time \(HTTP 503\) in 0.1 s"):
        ask(url, (503, {}), test=SmokeTest(seconds=0.1))


@pytest.mark.parametrize(
    ("code", "content", "words"),
    [
        (200, chat(" \n"), "an empty answer (finish_reason 'stop')"),
        (500, {"error": {"message": "the engine is broken"}}, "HTTP 500: "),
        (401, {"error": {"message": "The API key is wrong."}}, "The API key is wrong."),
        (200, {"choices": []}, "an answer that is none: "),
        (200, b"<html>", "an answer that is none: <html>"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_in_one_line(url: str, code: int, content: Any, words: str) -> None:
    with pytest.raises(NanochatError) as caught:
        ask(url, (code, content))
    message = str(caught.value)
    assert message.startswith("The new server failed its smoke test, 'What is 12*7?': ")
    assert words in message and "\n" not in message


def test_a_server_that_is_gone_fails_the_test_at_once(url: str) -> None:
    with pytest.raises(NanochatError, match="the server has ended"):
        ask(url, (200, chat("84")), is_running=lambda: False)
    with pytest.raises(NanochatError, match="the connection broke"):
        ask(f"http://127.0.0.1:{free_port()}", (200, chat("84")))


def test_trouble_is_told_in_words(url: str) -> None:
    assert trouble_of(url, "/health", seconds=5) is None
    assert trouble_of(url, "/ready", seconds=5) == "HTTP 503"
    assert "refused" in str(trouble_of(f"http://127.0.0.1:{free_port()}", "/health", seconds=5))


def test_the_first_key_is_found_where_the_server_looks_for_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NANOCHAT_API_KEYS", raising=False)
    assert first_key(None) is None
    monkeypatch.setenv("NANOCHAT_API_KEYS", " one, two")
    assert first_key(None) == "one"
    (tmp_path / "keys").write_text("# ours\n\nthree,four\nfive\n")
    assert first_key(str(tmp_path / "keys")) == "three,four"
