"""The outermost layer: it counts what is being answered, gives each answer an id, and writes one line about it.

A line never holds what was asked or answered.
"""

import logging
import time
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serving.state import ServerState

logger = logging.getLogger("nanochat.access")
LONGEST_PATH = 200


class Access:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # uvicorn, which sees the scope as it was, leaves the body out
            scope = dict(scope, method="GET")
        start, status, request_id = time.perf_counter(), 0, f"req_{uuid4().hex}"

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if self._state.phase == "draining":
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        state = self._state
        state.in_flight += 1
        state.metrics.http_in_flight.set(state.in_flight)
        try:
            await self._app(scope, receive, noted_send)
        finally:
            state.in_flight -= 1
            state.metrics.http_in_flight.set(state.in_flight)
            self._note(scope, status, time.perf_counter() - start, request_id)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        path = getattr(scope.get("route"), "path", "unknown")
        self._state.metrics.http.labels(path, known_method(scope["method"]), str(status or 499)).inc()
        if status >= 400:
            self._state.metrics.errors.labels(str(status)).inc()
        client = scope["client"][0] if scope.get("client") else "-"
        shown = ascii(scope["path"])[1:-1][:LONGEST_PATH]
        told = status or "closed by the client"
        logger.info("%s %s %s %s %.0f ms %s", client, scope["method"], shown, told, 1000 * seconds, request_id)


def known_method(method: str) -> str:
    """Return the method for a metric's label: there are as many as a client likes to invent."""
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH") else "other"
