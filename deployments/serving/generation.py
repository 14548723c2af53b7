"""The engine's updates for one HTTP request, which may hold several prompts; timed and counted on their way."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from deployments.serving.metrics import Metrics
from nanochat_core.inference.requests import AsyncEngine, EngineBusy, Request, Update

Indexed = tuple[int, Update]  # which prompt, and what is new of it


async def updates_of(
    engine: AsyncEngine, requests: Sequence[Request], metrics: Metrics, *, at_a_time: int
) -> AsyncIterator[Indexed]:
    """Yield what the engine says to all requests as it comes. Closing the iterator takes them out of the batch."""
    watch = Stopwatch(metrics)
    source = _single(engine, requests[0]) if len(requests) == 1 else _several(engine, requests, at_a_time)
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


async def _single(engine: AsyncEngine, request: Request) -> AsyncIterator[Indexed]:
    async with aclosing(engine.stream(request)) as updates:  # type: ignore[type-var]
        async for update in updates:
            yield 0, update


async def _several(engine: AsyncEngine, requests: Sequence[Request], at_a_time: int) -> AsyncIterator[Indexed]:
    """Yield the updates of several requests, few enough at a time not to fill the line all alone."""
    queue: asyncio.Queue[Indexed | Exception | None] = asyncio.Queue(maxsize=64)
    line = _Line(at_a_time)

    async def pump(index: int, request: Request) -> None:
        try:
            async with line.place():
                while True:
                    try:
                        async with aclosing(engine.stream(request)) as updates:  # type: ignore[type-var]
                            async for update in updates:
                                await queue.put((index, update))
                        break
                    except EngineBusy:
                        await line.wait_for_another()
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
    """Places for the prompts of one request; a prompt that the engine refuses waits until another is done."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._inside = 0
        self._stuck = 0
        self._left = asyncio.Event()

    def place(self) -> "_Line":
        return self

    async def __aenter__(self) -> None:
        await self._places.acquire()
        self._inside += 1

    async def __aexit__(self, *_: object) -> None:
        self._inside -= 1
        self._places.release()
        self._left.set()

    async def wait_for_another(self) -> None:
        """Return once a place was left; raises EngineBusy where nobody of this request is being answered."""
        self._stuck += 1
        try:
            if self._stuck >= self._inside:
                raise EngineBusy
            self._left.clear()
            await self._left.wait()
        finally:
            self._stuck -= 1


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
