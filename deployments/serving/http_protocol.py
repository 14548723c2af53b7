"""uvicorn's HTTP protocol with what an open port needs besides: patience that ends, and errors as OpenAI spells them.

Now and then each connection is looked at: one that takes too long to send a request's head, or to take what it asked
for, is cut off. (How long a body may take is `request_body.py`'s business.)
"""

import asyncio
import json
import sys
import time
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from deployments.serving.errors import ApiError, unavailable
from nanochat_core.serve_spec import RequestLimits, ServeSpec

LOOK_SECONDS = 1.0  # between two looks at a connection, or a quarter of the shortest patience
LINGER_SECONDS = 10.0  # that a client may go on sending a body that was refused


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a connection that is one too many."""
    error = unavailable("Too many connections.", code="too_many_connections")
    error.headers["Connection"] = "close"
    await error.send(scope, receive, send)


class GuardedProtocol(H11Protocol):
    """One connection. `limits` and `max_connections` are set by `protocol_class`."""

    limits: RequestLimits
    max_connections: int
    _head_since: float | None = None
    _stuck_since: float | None = None
    _over_since: float | None = None
    _is_refused = False
    _answered = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_since = time.monotonic()
        if len(self.connections) > 2 * self.max_connections:
            self.transport.abort()
        elif len(self.connections) > self.max_connections and not self._make_room():
            self.app = refuse

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest, if there is one; return whether there was."""
        idle = [other for other in self.connections if other is not self and other.idle_since is not None]
        if not idle:
            return False
        min(idle, key=lambda other: other.idle_since).shutdown()
        return True

    @property
    def idle_since(self) -> float | None:
        """When the last answer was complete, where nothing of a next request has come since."""
        is_idle = self.conn.their_state is h11.IDLE and self._head_since is None and not self.transport.is_closing()
        return self._answered if is_idle else None

    def on_response_complete(self) -> None:
        self._answered = time.monotonic()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:  # read on: closing with something unread would take our answer out of the client's hands
            return
        if self._head_since is None and self.conn.their_state is h11.IDLE:
            self._head_since = time.monotonic()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None

    def pause_writing(self) -> None:
        self._stuck_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_since = None
        super().resume_writing()

    def look(self, now: float) -> None:
        """Cut the connection off where its client has used up our patience."""
        if self._head_since is not None and now - self._head_since > self.limits.header_seconds:
            self._head_since = None
            self._refuse(408, "The request's head did not arrive in time.", "request_timeout")
        elif self._stuck_since is not None and now - self._stuck_since > self.limits.send_seconds:
            self.transport.abort()
        elif self._is_over():
            self._over_since = self._over_since or now
            if now - self._over_since > LINGER_SECONDS:
                self.transport.abort()
        else:
            self._over_since = None

    def _is_over(self) -> bool:
        """Tell whether all is said, but the client still sends a body, or has not taken the end."""
        is_sending = self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete
        return is_sending or self._is_refused or (self.transport.is_closing() and self._stuck_since is None)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn calls this where h11 has raised."""
        error = sys.exc_info()[1]
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if hint == 431:
            self._refuse(
                431, f"The request's head has more than {self.limits.header_bytes} bytes.", "headers_too_large"
            )
        else:
            self._refuse(400, f"This is no valid HTTP request: {error or msg}.", "invalid_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Say what is wrong, if nothing was said yet, and nothing more after that."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            body = json.dumps(ApiError(status, message, code=code).body()).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            parts: list[Any] = [
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self._is_refused = True
            self.transport.write_eof()
        else:
            self.transport.close()


def protocol_class(spec: ServeSpec) -> type[GuardedProtocol]:
    """Return the protocol with the spec's limits, as uvicorn wants it: as a class."""
    return type("ServingProtocol", (GuardedProtocol,), {"limits": spec.limits, "max_connections": spec.max_connections})


async def look_after(connections: "set[Any]", limits: RequestLimits) -> None:
    """Look at all connections, again and again."""
    pause = min(LOOK_SECONDS, limits.header_seconds / 4, limits.send_seconds / 4)
    while True:
        await asyncio.sleep(pause)
        now = time.monotonic()
        for connection in list(connections):
            connection.look(now)
