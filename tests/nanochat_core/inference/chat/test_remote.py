"""A chat with a server, which is the project's own over a fake engine; and with answers that only others give."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat_core.errors import SpecError, Unreachable
from nanochat_core.inference.chat.remote import RemoteTalker, connect
from nanochat_core.inference.chat.session import ChatSession, Ended, Note, Said, TalkFailed
from nanochat_core.inference.chat.spec import AnswerSettings, parse_chat
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import LiveServer, running_server

KEY = "a-key-that-nobody-guesses"
Serve = Callable[[int, str, str], str]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"# mine\n\n{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def shared_engine() -> FakeEngine:
    return FakeEngine(max_context=400)


@pytest.fixture(scope="module")
def server(shared_engine: FakeEngine, key_file: Path) -> Iterator[LiveServer]:
    with running_server(shared_engine, api_keys_file=str(key_file)) as live:
        yield live


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    shared_engine.answer, shared_engine.clock = (lambda request: "four"), TokenClock()
    shared_engine.requests.clear()
    shared_engine.cancelled.clear()
    shared_engine.finished.clear()
    return shared_engine


@pytest.fixture
def session(server: LiveServer, engine: FakeEngine, key_file: Path) -> Iterator[ChatSession]:
    talker = connect(parse_chat({"url": server.url, "api_key_file": str(key_file)}))
    yield ChatSession(talker, AnswerSettings(max_tokens=100))
    talker.close()


def test_pieces_come_as_the_server_sends_them(session: ChatSession, engine: FakeEngine) -> None:
    engine.clock = TokenClock(tokens_per_second=20)
    session.settings = session.settings.changed(system="Be brief.", temperature=0.5, top_k=7, seed=3, max_tokens=50)
    answer = session.ask("2+2?")
    assert next(answer) == Said("text", "f")
    assert engine.finished == []
    engine.clock.run()
    assert list(answer) == [*(Said("text", letter) for letter in "our"), Ended("stop")]
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.max_new_tokens) == (0.5, 7, 3, 50)
    assert b"Be brief." in bytes(token for token in engine.requests[0].ids if token < 256)
    assert session.talker.name == "fake"


def test_an_answer_that_is_stopped_leaves_the_server(session: ChatSession, engine: FakeEngine) -> None:
    engine.clock, engine.answer = TokenClock(tokens_per_second=20), lambda request: "x" * 90
    answer = session.ask("2+2?")
    next(answer)
    answer.close()
    wait_until(lambda: len(engine.cancelled) == 1)


def test_tool_calls_are_told_apart_and_go_back_as_they_were(session: ChatSession, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "So "}, {"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    engine.answer = lambda request: parts
    list(session.ask("1+1?"))
    assert session.messages[1]["content"] == parts
    list(session.ask("Sure?"))
    assert engine.tokenizer.special("<|output_start|>") in engine.requests[1].ids


def test_messages_that_the_server_left_out_are_told(session: ChatSession) -> None:
    for _ in range(4):
        events = list(session.ask("x" * 100))
    assert isinstance(events[0], Note) and "are left out" in events[0].text


def test_a_stream_that_breaks_is_told_with_the_servers_words(session: ChatSession, engine: FakeEngine) -> None:
    engine.fail_after(2)
    with pytest.raises(TalkFailed, match="The server broke the answer off: "):
        list(session.ask("2+2?"))
    assert len(session.messages) == 2  # what came before


def test_a_wrong_key_a_wrong_model_and_a_long_message_are_refused_in_one_line(
    server: LiveServer, session: ChatSession
) -> None:
    with pytest.raises(SpecError, match=r"wants another API key .* set NANOCHAT_API_KEY") as refusal:
        RemoteTalker(server.url, api_key="a-secret", model_name=None)
    assert "a-secret" not in str(refusal.value)
    other = ChatSession(RemoteTalker(server.url, api_key=KEY, model_name="gpt-9"), AnswerSettings())
    with pytest.raises(SpecError, match=r"status 404: .*gpt-9"):
        list(other.ask("hi"))
    other.talker.close()
    with pytest.raises(SpecError, match="status 400: "):
        list(session.ask("x" * 500))
    assert session.messages == []


def test_the_key_comes_from_the_environment_too(
    server: LiveServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_API_KEY", KEY)
    talker = connect(parse_chat({"url": server.url.removeprefix("http://")}))
    assert talker.name == "fake"
    talker.close()


def test_nobody_at_the_address_and_no_address_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="is the server running"):
        RemoteTalker("http://127.0.0.1:1", api_key=None, model_name=None)
    with pytest.raises(SpecError, match="is no address"):
        RemoteTalker("ftp://example.org", api_key=None, model_name=None)
    with pytest.raises(SpecError, match="cannot be read"):
        connect(parse_chat({"url": "http://127.0.0.1:1", "api_key_file": str(tmp_path / "none")}))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server which gives every POST the same answer, and returns its address."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, content_type: str, body: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Retry-After", "7")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None: ...

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, '{"error": {"message": "too many"}}', r"busy \(too many\): try again in 7 seconds"),
        (500, "<html>oh no</html>", "broke with status 500: <html>oh no</html>"),
        (200, "data: no json\n\n", "no chunk of an answer: 'no json'"),
        (200, "data: [1]\n\n", "no chunk of an answer"),
        (200, 'data: {"choices": [3]}\n\n', "no chunk of an answer"),
        (200, 'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "broke the answer off"),
        (200, 'data: {"error": {"message": "out of memory"}}\n\n', "broke the answer off: out of memory"),
    ],
)
def test_servers_that_break_are_told_from_wrong_questions(serve: Serve, status: int, body: str, said: str) -> None:
    talker = RemoteTalker(serve(status, "text/event-stream", body), api_key=None, model_name="any")
    with pytest.raises(TalkFailed, match=said):
        list(talker.answer([{"role": "user", "content": "hi"}], AnswerSettings()))
    talker.close()


def test_remarks_and_other_fields_of_other_servers_are_passed_over(serve: Serve) -> None:
    chunks = [
        ": ping",
        'data: {"choices": [{"delta": {"role": "assistant", "reasoning": "hm"}}]}',
        'data:{"choices": [{"delta": {"content": "a"}}]}',
        'data: {"choices": [{"delta": {"content": null}, "finish_reason": "stop"}]}',
        'data: {"choices": [], "usage": {}}',
        "data: [DONE]",
    ]
    talker = RemoteTalker(serve(200, "text/event-stream", "\n\n".join(chunks) + "\n\n"), api_key=None, model_name="any")
    events = list(talker.answer([{"role": "user", "content": "hi"}], AnswerSettings()))
    assert events == [Said("text", "a"), Ended("stop")]
    talker.close()
