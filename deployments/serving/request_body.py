"""Reads a request's body before anything else does: never more of it than allowed, nor for longer."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serving.errors import ApiError
from nanochat_core.serve_spec import RequestLimits

METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")


class RequestBody:
    """Hands whole bodies on. What is too large or too slow is answered here: the rest of it is thrown away."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, and pass on."""
        if scope["method"] not in METHODS_WITH_BODY:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ApiError as error:
            await error.send(scope, receive, send)
            return
        if body is None:  # the client has gone
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, or None where the client went away; raises ApiError."""
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared[:20]) > self._limits.body_bytes:
            raise self._too_large()
        limit, seconds = self._limits.body_bytes, self._limits.body_seconds
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise self._too_large()
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            text = f"The body did not arrive within {seconds:g} seconds."
            raise ApiError(408, text, code="request_timeout", headers={"Connection": "close"}) from None
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if body and kind != b"application/json":
            raise ApiError(415, "Send the body as JSON: Content-Type: application/json.", code="unsupported_media_type")
        return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body has more than {self._limits.body_bytes} bytes.", code="request_too_large")
