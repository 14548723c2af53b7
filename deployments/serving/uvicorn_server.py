"""uvicorn without a will of its own: its signals, its patience and its end are the business of `server.py`."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import uvicorn

FLUSH_POLL_SECONDS = 0.01
FLUSH_SECONDS = 5.0  # for the last words of answers that were cut off


class QuietServer(uvicorn.Server):
    """uvicorn without signal handlers of its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Keep the Date header right until `leave`."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 1.0)

    def leave(self) -> None:
        """End, connections included."""
        self.should_exit = True
        self._end.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what listens and what is idle; give the rest FLUSH_SECONDS for its last words, then cut it off."""
        for listening in [*self.servers, *(sockets or [])]:
            listening.close()
        connections, tasks = self.server_state.connections, self.server_state.tasks
        for connection in list(connections):
            connection.shutdown()
        end = time.monotonic() + FLUSH_SECONDS
        while (connections or tasks) and time.monotonic() < end:
            await asyncio.sleep(FLUSH_POLL_SECONDS)
        for task in list(tasks):
            task.cancel()
        for connection in list(connections):
            connection.transport.abort()
