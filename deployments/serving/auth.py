"""API keys: kept as hashes, compared in constant time."""

import hashlib
import hmac
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.serving.errors import ApiError
from deployments.serving.route_path import route_path
from nanochat_core.errors import NanochatError

VARIABLE = "NANOCHAT_API_KEYS"
SHORTEST_KEY = 16  # characters: shorter ones can be guessed
OPEN_PATHS = (
    "/",
    "/health",
    "/ready",
    "/version",
    "/nanochat/info",
    "/docs",
    "/openapi.json",
    "/favicon.ico",
)
OPEN_FOLDER = "/static/"


class ApiKeys:
    """The keys that open the API; none: it is open to all."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Raises NanochatError for a key that is too short."""
        keys = list(keys)
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise NanochatError(f"An API key is shorter than {SHORTEST_KEY} characters: use long random ones.")
        self._digests = [digest(key) for key in keys]

    @classmethod
    def load(cls, path: str | None) -> "ApiKeys":
        """Return the keys in the file, one a line (# begins a comment), else those in $NANOCHAT_API_KEYS, with commas.

        Raises NanochatError for a file that cannot be read or has none.
        """
        if path is None:
            return cls(key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip())
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            mode = Path(path).stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise NanochatError(f"The API keys cannot be read: {error}") from None
        keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not keys:
            raise NanochatError(f"{path} has no API key: write one a line, or leave api_keys_file empty.")
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            print(f"warning: others can read {path}: chmod 600 {path}", file=sys.stderr, flush=True)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, key: str) -> str | None:
        """Return a name for the client with this key (no secret), or None. All keys are compared, whatever the first
        ones say, so that the time tells nothing."""
        asked, found = digest(key), -1
        for index, known in enumerate(self._digests):
            if hmac.compare_digest(asked, known):
                found = index
        return f"key {found}" if found >= 0 else None


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_open(path: str) -> bool:
    """Tell whether a path is for everybody: health, the page, the documents."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def bearer(scope: Scope) -> str | None:
    """Return the key that a request shows."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            return key.strip() if scheme.lower() == "bearer" else None
    return None


class Auth:
    """Lets nobody in without a key, where there are keys; notes who asks in scope["client_name"]."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        name = f"address {scope['client'][0]}" if scope.get("client") else "address unknown"
        if self._keys and not is_open(route_path(scope)):
            key = bearer(scope)
            found = self._keys.find(key) if key else None
            if found is None:
                said = "The API key is wrong." if key else "An API key is missing: send Authorization: Bearer KEY."
                headers = {"WWW-Authenticate": "Bearer"}
                await ApiError(401, said, code="invalid_api_key", headers=headers).send(scope, receive, send)
                return
            name = found
        scope["client_name"] = name
        await self._app(scope, receive, send)
