"""Another project's server: speaks OpenAI's API as far as it is told to, and refuses the rest as such servers do.

Its tokens are words with the blank before them; the likeliest next word is always " yes".
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORD = re.compile(r"\s*\S+|\s+$")
Json = dict[str, Any]
YES = {" yes": -0.25}


@dataclass
class ForeignServer:
    """What it can do, what it was asked, and with which answers it refuses before it gives in."""

    url: str = ""
    model: str = "stranger"
    max_model_len: int | None = None
    scores_prompts: bool = True
    chat_logprobs: bool = True
    samples: int = 1  # at a time, whatever n is
    answer: str = "#### 7"
    letters: tuple[tuple[str, float], ...] = ((" B", -0.5), ("A", -1.5))
    refusals: list[tuple[int, Json, dict[str, str]]] = field(default_factory=list)  # status, error, headers
    asked: list[tuple[str, Json]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer_to(self, path: str, body: Json) -> tuple[int, Json, dict[str, str]]:
        """Return (status, JSON, headers)."""
        self.asked.append((path, body))
        if self.refusals:
            status, error, headers = self.refusals.pop(0)
            return status, {"error": error}, headers
        if path == "/v1/models":
            about = {"id": self.model, "object": "model", "owned_by": "somebody"}
            return 200, {"data": [about | ({"max_model_len": self.max_model_len} if self.max_model_len else {})]}, {}
        if path == "/v1/completions":
            return self._completion(body)
        if path == "/v1/chat/completions":
            return self._chat(body)
        return 404, {"error": {"message": f"no {path} here"}}, {}

    def _completion(self, body: Json) -> tuple[int, Json, dict[str, str]]:
        if body.get("echo") and not self.scores_prompts:
            return 400, {"error": {"message": "echo is not supported"}}, {}
        text = body["prompt"] if body.get("echo") else ""
        words = [*WORD.findall(text), " yes"]
        offsets = [sum(map(len, words[:place])) for place in range(len(words))]
        block = {
            "tokens": words,
            "token_logprobs": [None, *(logprob_of(word) for word in words[1:])],
            "top_logprobs": [None, *({word: logprob_of(word)} | YES for word in words[1:])],
            "text_offset": offsets,
        }
        choice = {"text": f"{text} yes", "logprobs": block if "logprobs" in body else None, "finish_reason": "length"}
        return 200, {"choices": [choice]}, {}

    def _chat(self, body: Json) -> tuple[int, Json, dict[str, str]]:
        if "top_k" in body or "use_tools" in body:
            return 400, {"error": {"message": "Unrecognized request argument"}}, {}
        block = None
        if body.get("logprobs"):
            if not self.chat_logprobs:
                return 400, {"error": {"message": "This model has no logprobs."}}, {}
            top = [{"token": token, "logprob": logprob} for token, logprob in self.letters]
            block = {"content": [top[0] | {"top_logprobs": top}]}
        choice = {"message": {"content": self.answer}, "logprobs": block, "finish_reason": "stop"}
        return 200, {"choices": [choice] * min(self.samples, body.get("n", 1))}, {}


def logprob_of(word: str) -> float:
    """Return what the server says of a word, whatever stands before it."""
    return YES.get(word, -float(len(word)))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    foreign: ForeignServer

    def do_GET(self) -> None:
        self.reply({})

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: Json) -> None:
        foreign = self.foreign
        with foreign.lock:
            foreign.headers.append(dict(self.headers))
            status, answer, headers = foreign.answer_to(self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data)), "Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_stranger(**behaviour: Any) -> Iterator[ForeignServer]:
    """Serve on a free port of loopback for the length of the block."""
    foreign = ForeignServer(**behaviour)
    handler = type("Handler", (Handler,), {"foreign": foreign})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    foreign.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield foreign
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
