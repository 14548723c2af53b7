"""An engine without a model: it says what a test tells it to, at the pace that the test sets.

    engine = FakeEngine(answer=lambda request: "four", clock=TokenClock.stopped())
    engine.clock.advance(1)        # every running sample may say one more token; callable from any thread

Token ids are bytes (`tests/fakes.py`). Log-probabilities are made up, but of one distribution: `log_probabilities`.
"""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nanochat_core.chat_format import parts_of
from nanochat_core.inference.interface import Part
from nanochat_core.inference.requests import EngineBusy, EngineFailed, EngineStats, Request, ScoredToken, Update
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import PART_DELIMITERS
from nanochat_core.tokenizer.streaming import StreamDecoder
from tests.fakes import byte_tokenizer

Answer = Callable[[Request], "str | list[Part]"]
PAGE_TOKENS = 16


class TokenClock:
    """Says when a sample may emit its next token."""

    def __init__(self, tokens_per_second: float | None = None, *, is_stopped: bool = False) -> None:
        """Free running (None: as fast as it goes), or stopped until `advance`."""
        self.is_stopped = is_stopped
        self._seconds = 1 / tokens_per_second if tokens_per_second else 0.0
        self._ticks = 0
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @classmethod
    def stopped(cls) -> "TokenClock":
        """Return a clock that only `advance` moves."""
        return cls(is_stopped=True)

    @property
    def ticks(self) -> int:
        return self._ticks

    @property
    def waiting(self) -> int:
        """How many samples wait for their next token."""
        return len(self._waiting)

    def advance(self, tokens: int = 1) -> None:
        """Let every running sample emit so many more tokens."""
        with self._lock:
            self._ticks += tokens
            waiting = list(self._waiting)
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def stop(self) -> None:
        """Move with `advance` only, from now on."""
        self.is_stopped = True

    def run(self, tokens_per_second: float | None = None) -> None:
        """Run freely from now on."""
        self._seconds = 1 / tokens_per_second if tokens_per_second else 0.0
        self.is_stopped = False
        self.advance(0)

    async def wait(self, ticks: int) -> None:
        """Return once the clock has come to `ticks`; a free one comes to it after its seconds per token."""
        if not self.is_stopped:
            await asyncio.sleep(self._seconds)
            return
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(entry)
        try:
            while self.is_stopped and self._ticks < ticks:
                await entry[1].wait()
                entry[1].clear()
        finally:
            with self._lock:
                self._waiting.discard(entry)


@dataclass
class _Sample:
    """One answer as it will be told: its tokens, and the kind of each."""

    ids: list[int]
    kinds: list[str]
    updates: list[Update] = field(default_factory=list)


class FakeEngine:
    """An `AsyncEngine`; `tokenizer` is what load_engine's service has too."""

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        clock: TokenClock | None = None,
        model_name: str = "fake",
        max_context: int = 2048,
        max_running: int = 8,
        max_waiting: int = 16,
    ) -> None:
        self.answer = answer or said_back
        self.clock = clock or TokenClock()
        self.tokenizer: Tokenizer = byte_tokenizer()
        self.model_name, self.max_context = model_name, max_context
        self.vocab_size = self.tokenizer.vocab_size
        self.max_running, self.max_waiting = max_running, max_waiting
        self.requests: list[Request] = []
        self.cancelled: list[Request] = []
        self.finished: list[Request] = []
        self.failures: dict[int, str] = {}  # how many tokens are told before a request breaks, and what it says then
        self.failure: str | None = None  # why the whole engine is dead
        self.is_closed = False
        self._running = 0
        self._entering = 0  # accepted, but nobody has listened to their answers yet
        self._line: deque[asyncio.Future[int]] = deque()
        self._counts = {"prompt": 0, "cached": 0, "generated": 0, "steps": 0}

    def fail_after(self, tokens: int, message: str = "the matrix is singular") -> None:
        """Break the next request once it has told so many tokens."""
        self.failures[tokens] = message

    def die(self, message: str = "the engine's thread has died") -> None:
        """Break all requests, those to come included."""
        self.failure = message
        self.clock.run()

    def stream(self, request: Request) -> AsyncIterator[Update]:
        """Tell the answer, token by token; refusals come at once."""
        self._check(request)
        self.requests.append(request)
        self._entering += 1
        return self._told(request)

    async def _told(self, request: Request) -> AsyncIterator[Update]:
        self._entering -= 1
        failure = self.failures.popitem() if self.failures else None
        try:
            start = await self._enter()
        except asyncio.CancelledError:
            self.cancelled.append(request)
            raise
        try:
            async for update in self._updates(request, failure, start):
                yield update
            self.finished.append(request)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request)
            raise
        finally:
            self._leave()

    def _check(self, request: Request) -> None:
        if self.failure:
            raise EngineFailed(self.failure)
        if not request.ids:
            raise ValueError("a request needs at least one token")
        if len(request.ids) + request.sampling.max_new_tokens > self.max_context:
            raise ValueError(f"{len(request.ids)} tokens and {request.sampling.max_new_tokens} more do not fit")
        if max(request.ids) >= self.vocab_size:
            raise ValueError("an id is no token")
        waiting = len(self._line) + max(0, self._entering - max(0, self.max_running - self._running))
        if self._running >= self.max_running and waiting >= self.max_waiting:
            raise EngineBusy(f"{waiting} requests wait already")

    async def _enter(self) -> int:
        """Take a slot, or wait for one; return the clock's ticks at that moment: a test may advance it right after."""
        if self._running < self.max_running and not self._line:
            start = self.clock.ticks
            self._running += 1
            return start
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            with contextlib.suppress(ValueError):
                self._line.remove(turn)
            raise

    def _leave(self) -> None:
        """Give the slot to the next in line, or back."""
        ticks = self.clock.ticks
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(ticks)
                return
        self._running -= 1

    async def _updates(self, request: Request, failure: tuple[int, str] | None, start: int) -> AsyncIterator[Update]:
        cached = self._cached(request)
        self._counts["prompt"] += len(request.ids)
        self._counts["cached"] += cached
        samples = [self._tell(request, index, cached) for index in range(request.num_samples)]
        for turn in range(max(map(len, samples))):
            await self.clock.wait(start + turn + 1)
            self._counts["steps"] += 1
            for updates in samples:
                if self.failure:
                    raise EngineFailed(self.failure)
                if failure and turn >= failure[0]:
                    raise EngineFailed(failure[1])
                if turn < len(updates):
                    self._counts["generated"] += len(updates[turn].tokens)
                    yield updates[turn]

    def _cached(self, request: Request) -> int:
        """Whole pages that an earlier request began with, too."""
        before = [shared_prefix(request.ids, other.ids) for other in self.requests[-50:-1]]
        return max(before, default=0) // PAGE_TOKENS * PAGE_TOKENS

    def _tell(self, request: Request, index: int, cached: int) -> list[Update]:
        """Return the updates of one sample; the last has the finish reason."""
        sampling, content = request.sampling, self.answer(request)
        ids, kinds = self._tokens(content)
        end = self.tokenizer.special("<|assistant_end|>")
        if sampling.ignore_eos:
            ids, kinds = (ids * sampling.max_new_tokens)[: sampling.max_new_tokens], kinds * sampling.max_new_tokens
        else:
            ids, kinds = [*ids, end], [*kinds, "text"]
        finish = "stop" if len(ids) <= sampling.max_new_tokens and not sampling.ignore_eos else "length"
        ids = ids[: sampling.max_new_tokens]
        updates = self._texts(request, ids, kinds, finish)
        if index == 0 and updates:
            prompt = ()
            if sampling.prompt_logprobs is not None:
                prompt = score(request.ids, self.vocab_size, sampling.prompt_logprobs)
            updates[0] = _changed(updates[0], prompt_tokens=prompt, cached_tokens=cached)
        return [_changed(update, sample=index) for update in updates]

    def _tokens(self, content: "str | list[Part]") -> tuple[list[int], list[str]]:
        ids: list[int] = []
        kinds: list[str] = []
        for part in parts_of(content):
            inner = self.tokenizer.encode(part["text"])
            if part["type"] != "text":
                start, end = PART_DELIMITERS[part["type"]]
                inner = [self.tokenizer.special(start), *inner, self.tokenizer.special(end)]
            ids += inner
            kinds += [part["type"]] * len(inner)
        return ids, kinds

    def _texts(self, request: Request, ids: list[int], kinds: list[str], finish: str) -> list[Update]:
        """Return an update for each token: text of whole characters, held back where it may begin a stop string."""
        sampling, decoder = request.sampling, StreamDecoder(self.tokenizer)
        updates, held, context = [], "", list(request.ids)
        for position, (token, kind) in enumerate(zip(ids, kinds, strict=False)):
            scored = ScoredToken(token, is_forced=kind == "python_output")
            if sampling.logprobs is not None and not scored.is_forced:
                scored = scored_token(context, token, self.vocab_size, sampling.logprobs)
            context.append(token)
            held += "" if token in self.tokenizer.special_ids else decoder.feed([token])
            is_last = position == len(ids) - 1
            held += decoder.finish() if is_last else ""
            if found := min(((held.find(text), text) for text in sampling.stop if text in held), default=None):
                updates.append(Update(0, (scored,), held[: found[0]], kind, "stop", found[1]))  # type: ignore[arg-type]
                return updates
            if token in sampling.stop_ids:
                updates.append(Update(0, (scored,), held, kind, "stop"))  # type: ignore[arg-type]
                return updates
            keep = 0 if is_last or kind != "text" else longest_start(held, sampling.stop)
            text, held = held[: len(held) - keep], held[len(held) - keep :]
            updates.append(Update(0, (scored,), text, kind, finish if is_last else None))  # type: ignore[arg-type]
        return updates or [Update(0, finish_reason="length")]

    def stats(self) -> EngineStats:
        """Return a look at the engine."""
        return EngineStats(
            running=self._running,
            waiting=len(self._line),
            pages_used=self._running,
            pages_total=100,
            prompt_tokens=self._counts["prompt"],
            cached_prompt_tokens=self._counts["cached"],
            generated_tokens=self._counts["generated"],
            steps=self._counts["steps"],
            failure=self.failure,
        )

    async def close(self) -> None:
        """Break what still runs."""
        self.is_closed = True
        if self.failure is None:
            self.die("the engine was closed")


def said_back(request: Request) -> str:
    """Return an answer that repeats the last words of the prompt."""
    words = bytes(token for token in request.ids if token < 256).decode(errors="replace")
    return f"You said: {words[-200:]}"


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many ids two prompts have in common from their start."""
    return next(
        (i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )


def longest_start(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins a stop string."""
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)


def log_probabilities(context: Sequence[int], vocab_size: int) -> np.ndarray:
    """Return (V,) float32 natural-log probabilities of the next token: random, but always the same for a context."""
    seed = hashlib.sha256(repr(tuple(context[-4:])).encode()).digest()
    logits = np.random.default_rng(int.from_bytes(seed[:8], "big")).normal(size=vocab_size).astype(np.float32) * 3
    return logits - np.log(np.exp(logits).sum())


def scored_token(context: Sequence[int], token: int, vocab_size: int, alternatives: int) -> ScoredToken:
    """Return the token with its made-up log-probability and its likeliest alternatives."""
    logprobs = log_probabilities(context, vocab_size)
    best = np.argsort(-logprobs, kind="stable")[:alternatives]
    return ScoredToken(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in best))


def score(ids: Sequence[int], vocab_size: int, alternatives: int) -> tuple[ScoredToken, ...]:
    """Return a prompt's tokens with their log-probabilities; the first has none."""
    rest = (scored_token(ids[:i], ids[i], vocab_size, alternatives) for i in range(1, len(ids)))
    return (ScoredToken(ids[0]), *rest)


def _changed(update: Update, **changes: object) -> Update:
    values = {name: getattr(update, name) for name in update.__dataclass_fields__}
    return Update(**(values | changes))  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return as soon as the condition holds; raises AssertionError when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
