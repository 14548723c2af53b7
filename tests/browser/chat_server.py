"""The real server with an engine that says what a test tells it to, in a thread beside the browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nanochat_core.inference.interface import Part
from nanochat_core.inference.requests import Request
from nanochat_core.tokenizer.bpe import Tokenizer
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import LiveServer, running_server

MODEL = "demo-d4"
Content = str | list[Part]


class ChatServer:
    """A server at `url`; `answers` says what to answer to a question, by its last words, "" being for all others."""

    def __init__(self, live: LiveServer, engine: FakeEngine) -> None:
        self.live, self.engine = live, engine
        self.answers: dict[str, Content] = {}
        engine.answer = self._answer

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{self.live.url.rstrip('/')}/"

    @property
    def running(self) -> int:
        """Requests that are in the batch."""
        return self.engine.stats().running

    @property
    def sampling(self) -> Any:
        """How the newest request wants its tokens chosen."""
        return self.engine.requests[-1].sampling

    def prompt(self, index: int = -1) -> str:
        """Return the text of a request's prompt; special tokens are line breaks in it."""
        return self._text(self.engine.requests[index])

    def tell(self, answer: Content = "Hello there.", *, is_stopped: bool = False) -> None:
        """Answer so to whatever is asked; `is_stopped`: a token at a time, by `advance`."""
        self.answers = {"": answer}
        self.engine.clock.run()
        self.engine.clock.is_stopped = is_stopped

    def advance(self, tokens: int) -> None:
        """Let the answer, which must have begun or be about to, go on by so many tokens."""
        wait_until(lambda: self.engine.clock.waiting > 0)
        self.engine.clock.advance(tokens)

    def _answer(self, request: Request) -> Content:
        asked = self._text(request)
        return next(answer for words, answer in self.answers.items() if asked.endswith(words))

    def _text(self, request: Request) -> str:
        tokenizer = self.engine.tokenizer
        pieces = ("\n" if token in tokenizer.special_ids else tokenizer.decode([token]) for token in request.ids)
        return "".join(pieces).strip()


def parts(**texts: str) -> list[Part]:
    """Return an answer in parts: parts(text="It is ", python="1+1", python_output="2")."""
    return [{"type": kind, "text": text} for kind, text in texts.items()]


@contextmanager
def chat_server(*, tokenizer: Tokenizer | None = None, **options: Any) -> Iterator[ChatServer]:
    """Yield a server; `options` are fields of ServeSpec. A token is a byte where no tokenizer is given."""
    engine = FakeEngine(clock=TokenClock(), model_name=MODEL, max_context=4096)
    if tokenizer is not None:
        engine.tokenizer, engine.vocab_size = tokenizer, tokenizer.vocab_size
    fields: dict[str, Any] = {"drain_seconds": 0.1, "sampling": {"max_tokens": 2000}}
    with running_server(engine, **fields | options) as live:
        yield ChatServer(live, engine)
        engine.clock.run()
