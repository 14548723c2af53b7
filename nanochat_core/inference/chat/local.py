"""A chat with an engine in this process. The engine is asynchronous: it has an event loop in a thread of its own."""

import asyncio
import concurrent.futures
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nanochat_core.errors import DataError
from nanochat_core.inference.chat.session import ChatEvent, Ended, Message, Said, TalkFailed, dropped_note
from nanochat_core.inference.chat.spec import AnswerSettings, ChatSpec
from nanochat_core.inference.requests import AsyncEngine, EngineBusy, EngineFailed, Request, Sampling, Update
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt

ANSWER_SHARE = 4  # of the context, at most a quarter is kept free for the answer by leaving turns out
CLOSE_SECONDS = 10


class ChatEngine(AsyncEngine, Protocol):
    """An engine that brings its tokenizer."""

    tokenizer: Tokenizer


class LocalTalker:
    """`Talker` over an engine."""

    def __init__(self, engine: ChatEngine, name: str) -> None:
        self.name, self._engine = name, engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nanochat-chat", daemon=True)
        self._thread.start()

    def answer(self, messages: Sequence[Message], settings: AnswerSettings) -> Iterator[ChatEvent]:
        """Yield the answer as it comes; oldest turns are left out where the context is too short."""
        engine = self._engine
        ids, dropped = fitted_prompt(engine.tokenizer, messages, settings, engine.max_context)
        if dropped:
            yield dropped_note(dropped)
        room = engine.max_context - len(ids)
        request = Request(tuple(ids), sampling_of(settings, min(settings.max_tokens, room)))
        for update in self._updates(request):
            if update.text:
                yield Said(update.kind, update.text)
            if update.finish_reason:
                yield Ended(update.finish_reason)

    def _updates(self, request: Request) -> Iterator[Update]:
        """Yield the engine's updates; closing it takes the request out of the engine."""
        news: queue.SimpleQueue[Update | BaseException | None] = queue.SimpleQueue()

        async def follow() -> None:
            try:
                async for update in self._engine.stream(request):
                    news.put(update)
                news.put(None)
            except Exception as error:
                news.put(error)

        task = asyncio.run_coroutine_threadsafe(follow(), self._loop)
        try:
            while (update := news.get()) is not None:
                if isinstance(update, BaseException):
                    raise _explained(update) from update
                yield update
        finally:
            task.cancel()

    def close(self) -> None:
        """Stop the engine."""
        closing = asyncio.run_coroutine_threadsafe(self._engine.close(), self._loop)
        concurrent.futures.wait([closing], timeout=CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)


def load_local(spec: ChatSpec) -> LocalTalker:
    """Return the model of the spec's folders; raises CheckpointError and the like where it cannot be loaded."""
    from nanochat_core.inference.service import EngineOptions, load_engine  # imports torch

    assert spec.model_folder is not None and spec.tokenizer_folder is not None
    model, tokenizer = Path(spec.model_folder), Path(spec.tokenizer_folder)
    engine = load_engine(model, tokenizer, options=EngineOptions(precision=spec.precision, max_batch=1))
    return LocalTalker(engine, "/".join(model.parts[-2:]))


def sampling_of(settings: AnswerSettings, max_new_tokens: int) -> Sampling:
    """Return what the engine is told; without a seed, one is drawn."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        seed=random.getrandbits(62) if settings.seed is None else settings.seed,
    )


def fitted_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], settings: AnswerSettings, max_context: int
) -> tuple[list[int], int]:
    """Return the prompt's ids with room for an answer, and how many of the oldest messages were left out for it.

    Raises DataError where the last message alone leaves no room.
    """
    room = max_context - min(settings.max_tokens, max_context // ANSWER_SHARE)
    system: list[dict[str, Any]] = [{"role": "system", "content": settings.system}] if settings.system else []
    for dropped in range(0, len(messages), 2):
        ids = render_prompt(tokenizer, {"messages": [*system, *messages[dropped:]]})
        if len(ids) <= room:
            return ids, dropped
    if len(ids) >= max_context:
        raise DataError(
            f"The message is {len(ids)} tokens with what goes around it, and the model's context has {max_context}: "
            "say it in fewer words."
        )
    return ids, dropped


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, EngineFailed | EngineBusy):
        return TalkFailed(f"The engine broke: {error}.")
    return DataError(f"The engine refuses this: {error}.") if isinstance(error, ValueError) else error
