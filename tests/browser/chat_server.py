"""The real server with an engine that says what a test tells it to, in a thread beside the browser."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from deployments.serving.server import Server
from nanochat_core.inference.interface import Part
from nanochat_core.inference.requests import Request
from nanochat_core.serve_spec import ServeSpec
from tests.fake_engine import FakeEngine, TokenClock, wait_until

MODEL = "demo-d4"
Content = str | list[Part]


class ChatServer:
    """A server at `url`; `answers` says what to answer to a question, by its last words, "" being for all others."""

    def __init__(self, folder: Path, **options: Any) -> None:
        """Start it; `options` are fields of ServeSpec."""
        self.answers: dict[str, Content] = {}
        self.engine = FakeEngine(self._answer, clock=TokenClock(), model_name=MODEL, max_context=4096)
        fields = {"model_name": MODEL, "model_folder": str(folder), "tokenizer_folder": str(folder), "port": 0}
        spec = ServeSpec.model_validate(fields | {"drain_seconds": 0.1, "sampling": {"max_tokens": 2000}} | options)
        self._server = Server(spec, lambda _: self.engine, folder=folder)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.run()), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.state.is_ready)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{self._server.url.rstrip('/')}/"

    @property
    def running(self) -> int:
        """Requests that are in the batch."""
        return self.engine.stats().running

    @property
    def sampling(self) -> Any:
        """How the newest request wants its tokens chosen."""
        return self.engine.requests[-1].sampling

    def prompt(self, index: int = -1) -> str:
        """Return the text of a request's prompt, without its special tokens."""
        return text_of(self.engine.requests[index])

    def tell(self, answer: Content = "Hello there.", *, is_stopped: bool = False) -> None:
        """Answer so to whatever is asked; `is_stopped`: a token at a time, by `advance`."""
        self.answers = {"": answer}
        self.engine.clock.run()
        self.engine.clock.is_stopped = is_stopped

    def advance(self, tokens: int) -> None:
        """Let the answer, which must have begun or be about to, go on by so many tokens."""
        wait_until(lambda: self.engine.clock.waiting > 0)
        self.engine.clock.advance(tokens)

    def close(self) -> None:
        """End it."""
        self.engine.clock.run()
        self._server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server does not end"

    def _answer(self, request: Request) -> Content:
        asked = text_of(request)
        return next(answer for words, answer in self.answers.items() if asked.endswith(words))


def text_of(request: Request) -> str:
    """Return a prompt's text; a special token is a line break in it."""
    return bytes(token if token < 256 else 10 for token in request.ids).decode(errors="replace").strip()
