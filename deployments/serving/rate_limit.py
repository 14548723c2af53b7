"""How much one client may ask for: requests in a minute, and answers at a time. Refusals are 429 with Retry-After."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serving.errors import ApiError, too_many
from deployments.serving.route_path import route_path
from nanochat_core.serve_spec import ClientLimits

LIMITED_PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
MAX_CLIENTS = 10_000  # that are remembered; the one that was silent longest is forgotten first
CONCURRENT_SECONDS = 1


@dataclass
class Client:
    """What is known of a client: requests that it may make right now, and answers that it waits for."""

    tokens: float
    seen: float
    running: int = 0


class Clients:
    """A token bucket for each client: it fills at the allowed rate, up to the allowed burst."""

    def __init__(self, limits: ClientLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._clients: OrderedDict[str, Client] = OrderedDict()

    def enter(self, name: str) -> Client:
        """Count a request in; raises ApiError (429) where it is one too many."""
        client, limits = self._look_up(name), self._limits
        if limits.concurrent is not None and client.running >= limits.concurrent:
            message = (
                f"{client.running} of your requests are being answered, which is what this server allows at a time."
            )
            raise too_many(message, CONCURRENT_SECONDS, self.headers(client))
        if limits.requests_per_minute is not None:
            if client.tokens < 1:
                seconds = (1 - client.tokens) * 60 / limits.requests_per_minute
                message = f"More than {limits.requests_per_minute:g} requests a minute: wait {seconds:.1f} s."
                raise too_many(message, math.ceil(seconds), self.headers(client))
            client.tokens -= 1
        client.running += 1
        return client

    def headers(self, client: Client) -> dict[str, str]:
        """Return what OpenAI's clients read about the rate."""
        rate = self._limits.requests_per_minute
        if rate is None:
            return {}
        return {
            "x-ratelimit-limit-requests": str(self._limits.burst),
            "x-ratelimit-remaining-requests": str(int(client.tokens)),
            "x-ratelimit-reset-requests": f"{(self._limits.burst - client.tokens) * 60 / rate:.1f}s",
        }

    def _look_up(self, name: str) -> Client:
        now = self._clock()
        client = self._clients.setdefault(name, Client(float(self._limits.burst), now))
        self._clients.move_to_end(name)
        gained = (now - client.seen) * (self._limits.requests_per_minute or 0) / 60
        client.tokens, client.seen = min(float(self._limits.burst), client.tokens + gained), now
        if len(self._clients) > MAX_CLIENTS:
            self._forget_one()
        return client

    def _forget_one(self) -> None:
        """Forget the client that was silent longest; who waits for an answer counts as heard of now."""
        name, client = self._clients.popitem(last=False)
        if client.running:
            self._clients[name] = client

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._clients)


class RateLimit:
    """Applies `Clients` to the requests that cost something."""

    def __init__(self, app: ASGIApp, limits: ClientLimits) -> None:
        self._app, self._clients = app, Clients(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429."""
        if route_path(scope) not in LIMITED_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            client = self._clients.enter(scope["client_name"])
        except ApiError as error:
            await error.send(scope, receive, send)
            return
        told = [(name.encode(), value.encode()) for name, value in self._clients.headers(client).items()]

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        try:
            await self._app(scope, receive, send_with_rate)
        finally:
            client.running -= 1
