"""One answer of the model over HTTP: whole, or as server-sent events.

While the engine works, the answer also listens to its client: a connection that closes cancels the work at once, which
takes the request out of the batch, streamed or not. It listens to the server too, which may have to end.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.serving.errors import ApiError, of_engine, unavailable
from deployments.serving.generation import updates_of
from deployments.serving.json_response import AsciiJSONResponse, json_bytes
from deployments.serving.prompt_log import PromptLog
from deployments.serving.state import ServerState
from nanochat_core.inference.requests import Request, Update

PATIENCE_SECONDS = 0.2  # that a stream waits for its first token before it begins
PING_SECONDS = 15.0  # of silence, after which a comment keeps proxies from closing the connection
DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
Json = dict[str, Any]


class Writer(Protocol):
    """Makes an API's JSON of the engine's updates; a new one for each answer."""

    def first(self) -> Iterator[Json]:
        """Yield the chunks that a stream begins with."""
        ...

    def see(self, index: int, update: Update) -> None:
        """Take in an update of prompt `index`."""
        ...

    def chunks(self, index: int, update: Update) -> Iterator[Json]:
        """Yield the chunks that an update, which was taken in, makes in a stream."""
        ...

    def last(self) -> Iterator[Json]:
        """Yield the chunks that a stream ends with."""
        ...

    def whole(self) -> Json:
        """Return all that came, as one object."""
        ...


class Answer(Response):
    """Runs requests on the engine and writes what it says."""

    def __init__(self, state: ServerState, requests: list[Request], writer: Writer, *, is_streamed: bool) -> None:
        super().__init__()
        self._state, self._requests, self._writer, self._is_streamed = state, requests, writer, is_streamed
        self._log = PromptLog(state.engine.tokenizer) if state.spec.log_prompts else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; returns early where the client has gone."""
        events = EventStream(send)
        if self._log is not None:
            self._log.asked(self._requests)
        work = asyncio.create_task(self._stream(events) if self._is_streamed else self._collect())
        gone = asyncio.create_task(_disconnected(receive))
        stopped = asyncio.create_task(self._state.aborted.wait())
        try:
            await asyncio.wait((work, gone, stopped), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                result = work.result()
            elif gone.done():
                return
            else:
                await _cancel(work)
                result = unavailable("The server is stopping.", code="shutting_down", retry_seconds=5)
                if self._is_streamed and events.has_started:
                    await events.fail(result)
                    return
            if isinstance(result, ApiError):
                raise result
            if result is not None:
                await AsciiJSONResponse(result, headers={"Cache-Control": "no-store"})(scope, receive, send)
        finally:
            await _cancel(work, gone, stopped)

    def _updates(self, admitted: asyncio.Event) -> "aclosing[Any]":
        state, at_a_time = self._state, self._state.spec.max_running
        return aclosing(updates_of(state.engine, self._requests, state.metrics, at_a_time=at_a_time, admitted=admitted))

    def _see(self, index: int, update: Update) -> None:
        self._writer.see(index, update)
        if self._log is not None:
            self._log.see(index, update)

    async def _collect(self) -> Json | ApiError:
        try:
            async with self._updates(asyncio.Event()) as updates:
                async for index, update in updates:
                    self._see(index, update)
        except Exception as error:
            return of_engine(error)
        return self._writer.whole()

    async def _stream(self, events: "EventStream") -> ApiError | None:
        """Return an error that came before the stream began; later ones are its last event."""
        opening, admitted = list(self._writer.first()), asyncio.Event()
        patience = asyncio.create_task(events.keep_alive(opening, admitted))
        try:
            async with self._updates(admitted) as updates:
                async for index, update in updates:
                    if not events.has_started:
                        await events.start(opening)
                    self._see(index, update)
                    for chunk in self._writer.chunks(index, update):
                        await events.send(chunk)
        except Exception as error:
            problem = of_engine(error)
            if not events.has_started:
                return problem
            await events.fail(problem)
            return None
        finally:
            await _cancel(patience)
        for chunk in self._writer.last():
            await events.send(chunk)
        await events.end()
        return None


class EventStream:
    """Server-sent events on an ASGI connection."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last = 0.0
        self.has_started = False
        self._lock = asyncio.Lock()

    async def start(self, chunks: list[Json]) -> None:
        """Send the head and the first events, unless they are sent already."""
        async with self._lock:
            if self.has_started:
                return
            self.has_started = True
            head = Response(media_type="text/event-stream", headers=HEADERS)
            headers = [pair for pair in head.raw_headers if pair[0] != b"content-length"]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._write(b"".join(map(event, chunks)))

    async def keep_alive(self, opening: list[Json], admitted: asyncio.Event) -> None:
        """Begin the stream where the first token takes long, and break long silences with comments."""
        await admitted.wait()
        await asyncio.sleep(PATIENCE_SECONDS)
        await self.start(opening)
        while True:
            await asyncio.sleep(max(0.1, self._last + PING_SECONDS - time.monotonic()))
            if time.monotonic() - self._last >= PING_SECONDS:
                await self._write(b": waiting\n\n")

    async def send(self, chunk: Json) -> None:
        await self._write(event(chunk))

    async def fail(self, error: ApiError) -> None:
        """End the stream with an error."""
        await self._write(event(error.body()), is_last=True)

    async def end(self) -> None:
        await self._write(DONE, is_last=True)

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        self._last = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})


def event(chunk: Json) -> bytes:
    """Return a chunk as an event. Only ASCII: some clients take more than CR and LF for the end of a line."""
    return b"data: " + json_bytes(chunk) + b"\n\n"


async def _disconnected(receive: Receive) -> None:
    """Return once the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
