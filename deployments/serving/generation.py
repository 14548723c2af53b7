"""The engine's updates for one HTTP request, which may hold several prompts; timed and counted on their way."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from deployments.serving.metrics import Metrics
from nanochat_core.inference.requests import AsyncEngine, EngineBusy, Request, Update

RETRY_SECONDS = 0.1  # after which a prompt that found no place asks again
Indexed = tuple[int, Update]  # which prompt, and what is new of it


async def updates_of(
    engine: AsyncEngine, requests: Sequence[Request], metrics: Metrics, *, at_a_time: int, admitted: asyncio.Event
) -> AsyncIterator[Indexed]:
    """Yield what the engine says to all requests as it comes. Closing the iterator takes them out of the batch.

    `admitted` is set as soon as the engine has taken one of them: EngineBusy cannot come any more.
    """
    watch, line = Stopwatch(metrics), _Line(at_a_time, admitted)
    source = _single(engine, requests[0], line) if len(requests) == 1 else _several(engine, requests, line)
    is_over = False
    try:
        async with aclosing(source) as updates:
            async for index, update in updates:
                watch.see(index, update)
                yield index, update
        is_over = True
    except (asyncio.CancelledError, GeneratorExit):
        metrics.aborted.inc()
        is_over = True
        raise
    finally:
        if is_over:
            watch.end()


async def _single(engine: AsyncEngine, request: Request, line: "_Line") -> AsyncIterator[Indexed]:
    async with aclosing(line.updates(engine, request)) as updates:
        async for update in updates:
            yield 0, update


async def _several(engine: AsyncEngine, requests: Sequence[Request], line: "_Line") -> AsyncIterator[Indexed]:
    """Yield the updates of several requests, few enough at a time not to fill the line all alone."""
    queue: asyncio.Queue[Indexed | Exception | None] = asyncio.Queue(maxsize=64)

    async def pump(index: int, request: Request) -> None:
        try:
            async with line.places, aclosing(line.updates(engine, request)) as updates:
                async for update in updates:
                    await queue.put((index, update))
            await queue.put(None)
        except Exception as error:  # handed to the reader, who raises it
            await queue.put(error)

    tasks = [asyncio.create_task(pump(index, request)) for index, request in enumerate(requests)]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Line:
    """The prompts of one HTTP request on their way into the engine: it is refused as a whole, or not at all.

    A prompt that the engine has no place for waits, once another one of the request was let in.
    """

    def __init__(self, at_a_time: int, admitted: asyncio.Event) -> None:
        self.places, self._admitted = asyncio.Semaphore(at_a_time), admitted

    async def updates(self, engine: AsyncEngine, request: Request) -> AsyncIterator[Update]:
        """Yield the updates of a request; raises EngineBusy where none of its line was let in."""
        while True:
            try:
                stream = engine.stream(request)
                break
            except EngineBusy:
                if not self._admitted.is_set():
                    raise
            await asyncio.sleep(RETRY_SECONDS)
        self._admitted.set()
        async with aclosing(stream) as updates:
            async for update in updates:
                yield update


class Stopwatch:
    """Times of one HTTP request: its first token, each later one, its end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._start = metrics, time.perf_counter()
        self._last: dict[tuple[int, int], float] = {}

    def see(self, index: int, update: Update) -> None:
        now, sample = time.perf_counter(), (index, update.sample)
        if update.tokens:
            if not self._last:
                self._metrics.first_token.observe(now - self._start)
            if (before := self._last.get(sample)) is not None:
                for _ in update.tokens:
                    self._metrics.between_tokens.observe((now - before) / len(update.tokens))
            self._last[sample] = now
        if update.finish_reason:
            self._metrics.succeeded.labels(update.finish_reason).inc()

    def end(self) -> None:
        self._metrics.whole.observe(time.perf_counter() - self._start)
