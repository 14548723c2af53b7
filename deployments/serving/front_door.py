"""Who is let in before anything is read: requests for this host, and, while it does not drain or load, at all.

Names are checked because of web pages that have their own name point to 127.0.0.1 (DNS rebinding): the browser then
lets them talk to a server that listens on loopback alone.
"""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.serving.errors import ApiError, unavailable
from deployments.serving.route_path import route_path
from deployments.serving.state import ServerState
from nanochat_core.serve_spec import LOOPBACK, ServeSpec

NEED_THE_MODEL = ("/v1/", "/tokenize", "/detokenize", "/tokenizer_info", "/nanochat/")
ANY = "*"


def allowed_hosts(spec: ServeSpec) -> frozenset[str]:
    """Return the names by which the server may be asked; "*" among them: by any."""
    if spec.allowed_hosts:
        return frozenset(host.lower() for host in spec.allowed_hosts)
    return frozenset(LOOPBACK) if spec.host in LOOPBACK else frozenset({ANY})


def asked_host(scope: Scope) -> str:
    """Return the name in the Host header, without its port; "" for none or one that is no name."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    try:
        return (urlsplit(f"//{values[0]}").hostname or "") if len(values) == 1 else ""
    except ValueError:
        return ""


def head_bytes(scope: Scope) -> int:
    """Return about how long a request's head is. (The parser stops long ones that do not come at once.)"""
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return headers + len(scope.get("raw_path", b"")) + len(scope["query_string"])


class FrontDoor:
    """Refuses requests for other hosts, and those that come while the model loads or the server drains."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state, self._hosts = app, state, allowed_hosts(state.spec)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403, 431 or 503."""
        if refusal := self._refusal(scope):
            await refusal.send(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if head_bytes(scope) > self._state.spec.limits.header_bytes:
            message = f"The request's head has more than {self._state.spec.limits.header_bytes} bytes."
            return ApiError(431, message, code="headers_too_large")
        if ANY not in self._hosts and asked_host(scope) not in self._hosts:
            return ApiError(403, "This server is not asked by that name (see allowed_hosts).", code="host_not_allowed")
        if not route_path(scope).startswith(NEED_THE_MODEL):
            return None
        if self._state.phase == "draining" and not self._state.is_replaced:
            return unavailable("The server is stopping.", code="shutting_down", retry_seconds=5)
        if self._state.phase == "loading":
            return unavailable("The model is still loading.", code="loading", retry_seconds=5)
        return None
