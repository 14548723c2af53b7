"""One server replaces another on the same port: real processes, a client that streams, and one that keeps asking."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.serving.handover import ControlPaths, OldServer
from deployments.serving.listening import bind
from deployments.serving.server import run
from nanochat_core.errors import NanochatError
from nanochat_core.serve_spec import ServeSpec
from tests.deployments.serving import fresh
from tests.deployments.serving.raw_http import CHAT
from tests.fake_engine import FakeEngine, wait_until
from tests.live_server import running_server

PROJECT = Path(__file__).parents[3]
LONG = CHAT | {"stream": True, "max_tokens": 1500, "ignore_eos": True}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServingProcess:
    """A server in a process, and what its status file says."""

    def __init__(self, base: Path, name: str, port: int, **spec: Any) -> None:
        self.status_file, self.log = base / f"{name}.status.json", base / f"{name}.log"
        written = base / f"{name}.json"
        whole = {"model_folder": "x", "tokenizer_folder": "x", "model_name": "fake", "port": port}
        written.write_text(json.dumps(whole | {"status_file": str(self.status_file)} | spec))
        environment = os.environ | {
            "NANOCHAT_BASE_DIR": str(base),
            "FAKE_TOKENS_PER_SECOND": "20",
            "FAKE_HURRY_FILE": str(base / "hurry"),
            "PYTHONPATH": str(PROJECT),
        }
        with open(self.log, "wb") as log:
            command = [sys.executable, "-m", "tests.serving_process", str(written)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=base)

    @property
    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.status_file.read_text())) if self.status_file.exists() else {"state": None}

    def wait_for(self, state: str) -> dict[str, Any]:
        """Wait for a state; raises AssertionError, with the log, where the process ends without it."""
        wait_until(lambda: self.status["state"] == state or self.process.poll() is not None, 120)
        assert self.status["state"] == state, f"{self.status}\n{self.log.read_text()}"
        return self.status


@contextmanager
def serving(base: Path, name: str, port: int, **spec: Any) -> Iterator[ServingProcess]:
    server = ServingProcess(base, name, port, **spec)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(60)


class Client(threading.Thread):
    """Does something over and over until it is told to stop; keeps what came, and what went wrong."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        super().__init__()
        self._ask, self._is_over = ask, threading.Event()
        self.answers: list[Any] = []
        self.errors: list[Exception] = []
        self.start()

    def run(self) -> None:
        while not self._is_over.is_set():
            try:
                self.answers.append(self._ask())
            except Exception as error:
                self.errors.append(error)

    def end(self) -> None:
        self._is_over.set()
        self.join(60)


def ask_anew(url: str) -> int | str:
    """Return the status of an answer, with a word where it came from a server that drains."""
    answer = fresh.post(f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 1})
    return f"{answer.status_code}, draining" if "connection" in answer.headers else answer.status_code


def test_a_new_server_takes_over_without_a_refused_request(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "old", port) as old:
        url = old.wait_for("ready")["url"]
        texts: list[str] = []

        def stream() -> None:
            with fresh.stream("POST", f"{url}/v1/chat/completions", json=LONG) as answer:
                texts.extend(answer.iter_lines())

        streaming = threading.Thread(target=stream)
        streaming.start()
        with fresh.Client() as kept:
            clients = [
                Client(lambda: ask_anew(url)),
                Client(lambda: kept.post(f"{url}/v1/completions", json={"prompt": "y", "max_tokens": 1}).status_code),
            ]
            wait_until(lambda: all(client.answers for client in clients) and bool(texts))
            with serving(tmp_path, "new", port) as new:
                new.wait_for("ready")
                old.wait_for("draining")
                counts, told = [len(client.answers) for client in clients], len(texts)
                wait_until(lambda: all(len(c.answers) > n + 5 for c, n in zip(clients, counts, strict=True)))
                wait_until(lambda: len(texts) > told)  # the stream goes on
                (tmp_path / "hurry").touch()
                streaming.join(60)
                assert old.process.wait(60) == 0 and old.status["state"] == "replaced"
                for client in clients:
                    client.end()
                    assert client.errors == [] and set(client.answers) <= {200, "200, draining"}
                assert set(clients[0].answers[counts[0] + 2 :]) == {200}  # the old one takes no new connections
                assert texts[-2:] == ["data: [DONE]", ""] and sum('"content":' in line for line in texts) == 1501
                assert new.status["pid"] == new.process.pid and new.status["url"] == url
                new.process.send_signal(signal.SIGTERM)
                assert new.process.wait(60) == 0 and new.status["state"] == "stopped"
    assert list((tmp_path / "serving").glob("*.sock")) == []


@pytest.mark.slow
def test_a_second_signal_cuts_answers_off_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "one", free_port(), drain_seconds=600) as server:
        url = server.wait_for("ready")["url"]
        slow = LONG | {"max_tokens": 2000}
        with fresh.stream("POST", f"{url}/v1/chat/completions", json=slow) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            server.process.send_signal(signal.SIGTERM)
            *_, last = (line for line in lines if line)
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
            assert server.process.wait(30) == 0
    assert server.status["state"] == "stopped"


def test_a_port_that_another_program_has_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port, status = other.getsockname()[1], tmp_path / "status.json"
        spec = ServeSpec(model_folder="x", tokenizer_folder="x", port=port, status_file=str(status))
        assert run(spec, lambda _: pytest.fail("loaded in vain"), folder=tmp_path, tell=print) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Port {port} of 127.0.0.1 cannot be had") and f"process {os.getpid()}" in line
    assert json.loads(status.read_text())["state"] == "failed"


@pytest.mark.parametrize("is_handed_over", [False, True])
def test_tokens_do_not_wait_for_acknowledgements(is_handed_over: bool) -> None:
    with socket.socket(fileno=os.dup(bind("127.0.0.1", 0).detach())) if is_handed_over else bind("127.0.0.1", 0) as own:
        own.setblocking(True)
        with socket.create_connection(own.getsockname()), own.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # for which asyncio sets TCP_NODELAY


def test_who_takes_the_socket_and_dies_has_changed_nothing() -> None:
    with running_server(FakeEngine()) as live:
        paths = ControlPaths(live.folder, int(live.url.rsplit(":", 1)[1]))
        assert oct(paths.socket.stat().st_mode & 0o777) == "0o600"
        old = OldServer.find(paths)
        assert old is not None
        old.take_socket().close()
        old.close()
        assert fresh.get(f"{live.url}/health").status_code == 200


def test_an_old_server_that_does_not_end_keeps_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(FakeEngine(), folder=tmp_path) as live:
        port = int(live.url.rsplit(":", 1)[1])

        def drain(self: OldServer) -> int:
            raise NanochatError("The server before this one does not end.")

        monkeypatch.setattr(OldServer, "drain", drain)
        spec = ServeSpec(model_folder="x", tokenizer_folder="x", model_name="fake", port=port)
        assert run(spec, lambda _: FakeEngine(), folder=tmp_path, tell=lambda line: None) == 2
        assert fresh.get(f"{live.url}/health").status_code == 200
        old = OldServer.find(ControlPaths(tmp_path, port))
        assert old is not None  # the next one still finds it
        old.close()


def test_a_server_of_another_address_is_not_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeEngine(), folder=tmp_path) as live:
        port = int(live.url.rsplit(":", 1)[1])
        spec = ServeSpec(model_folder="x", tokenizer_folder="x", host="0.0.0.0", port=port)
        assert run(spec, lambda _: FakeEngine(), folder=tmp_path, tell=lambda line: None) == 2
        assert "listens on 127.0.0.1, not on 0.0.0.0" in capsys.readouterr().err
        assert fresh.get(f"{live.url}/health").status_code == 200


def test_a_stale_control_socket_is_no_server(tmp_path: Path) -> None:
    paths = ControlPaths(tmp_path, 1)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(paths.socket))
    assert paths.socket.exists() and OldServer.find(paths) is None


def test_a_control_socket_may_have_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with running_server(FakeEngine(), folder=folder) as live:
        paths = ControlPaths(folder, int(live.url.rsplit(":", 1)[1]))
        old = OldServer.find(paths)
        assert old is not None
        old.close()


def test_nonsense_on_the_control_socket_is_ignored() -> None:
    with running_server(FakeEngine()) as live:
        paths = ControlPaths(live.folder, int(live.url.rsplit(":", 1)[1]))
        for word in (b"hello\n", b"x" * 10_000, b""):
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(paths.socket))
                link.sendall(word)
            assert fresh.get(f"{live.url}/health").status_code == 200
