"""A server that speaks the contract of deployments.serving without a model: status file, HTTP, signals, takeover.

    python -m tests.flows.fake_server SPEC.json

$FAKE_SERVER says how each start behaves, in order, with commas between; the last word holds for all further starts:

    well         serves
    crash        prints a line and ends with 1
    input        says what is wrong and ends with 2
    silent       never becomes ready
    deaf         is ready, and then answers no GET /health any more
    stubborn     does not end on the first SIGTERM
    frail        dies by a signal when it is to drain
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(ThreadingHTTPServer):
    """Listens beside an older server on the same port, until that one has gone."""

    daemon_threads = True
    behaviour = "well"

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.server.behaviour == "deaf" and self.path == "/health":
            time.sleep(600)
        self.answer(200, {"served by": os.getpid()})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {"choices": [{"message": {"content": "84"}, "finish_reason": "stop"}]})

    def answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Life:
    """The server's state, and the file that tells it."""

    def __init__(self, spec: dict[str, Any], *, is_frail: bool) -> None:
        self.is_frail = is_frail
        self._file = Path(spec["status_file"])
        self._url = f"http://{spec['host']}:{spec['port']}"
        self._pids = Path(os.environ["NANOCHAT_BASE_DIR"]) / f"fake-{spec['port']}.pid"
        self.is_ending = False  # no Event: its lock may be held by the very thread that a signal interrupts
        self.end = "stopped"

    def tell(self, state: str) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps({"state": state, "url": self._url, "pid": os.getpid()}))
        temporary.rename(self._file)

    def take_over(self) -> None:
        """Tell an older server on this port to leave, and wait until it listens no more."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(self._pids.read_text()), signal.SIGUSR1)
            deadline = time.monotonic() + 2
            while self._pids.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
        self._pids.write_text(str(os.getpid()))

    def listens_no_more(self) -> None:
        if self._pids.exists() and self._pids.read_text() == str(os.getpid()):
            self._pids.unlink()

    def leave(self, end: str) -> None:
        self.end = end
        self.tell("draining")
        if self.is_frail:
            os.kill(os.getpid(), signal.SIGKILL)
        self.is_ending = True


def behaviour_of_this_start(folder: Path) -> str:
    starts = folder / "starts"
    with open(starts, "a") as file:
        file.write(".")
    words = os.environ.get("FAKE_SERVER", "well").split(",")
    return words[min(len(starts.read_text()), len(words)) - 1]


def main() -> None:
    spec_file = Path(sys.argv[1])
    spec = json.loads(spec_file.read_text())
    behaviour = behaviour_of_this_start(spec_file.parent)
    life = Life(spec, is_frail=behaviour == "frail")
    life.tell("loading")
    if behaviour == "crash":
        print("the engine has blown up", flush=True)
        raise SystemExit(1)
    if behaviour == "input":
        print("no checkpoint in the folder: train first", file=sys.stderr, flush=True)
        raise SystemExit(2)
    terms: list[int] = []
    needed = 2 if behaviour == "stubborn" else 1
    signal.signal(signal.SIGTERM, lambda number, _: terms.append(number))
    signal.signal(signal.SIGUSR1, lambda *_: life.leave("replaced"))
    if behaviour != "silent":
        server = Server((spec["host"], spec["port"]), Handler)
        server.behaviour = behaviour
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        life.take_over()
        life.tell("ready")
    while not life.is_ending:
        time.sleep(0.02)
        if len(terms) >= needed:
            life.leave("stopped")
    if behaviour != "silent":
        server.shutdown()
        server.server_close()
        life.listens_no_more()
    life.tell(life.end)


if __name__ == "__main__":
    main()
