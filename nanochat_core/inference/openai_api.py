"""Requests to a server that speaks OpenAI's API, repeated where that helps. Torch-free.

A busy server (429, 503) says in Retry-After when to come again; broken connections and a server's own mistakes (5xx)
are tried again after 0.5, 1, 2, 4, … seconds. What is wrong with a request itself is never repeated.
"""

import email.utils
import ipaddress
import os
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from nanochat_core.errors import SpecError, Unreachable

API_KEY = "NANOCHAT_API_KEY"
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 600.0  # a busy server may let a request wait
ATTEMPTS = 9  # the waits between them add up to about a minute
MAX_WAIT_SECONDS = 30.0
MAX_RETRY_AFTER = 600.0  # seconds; a server that asks for more is not waited for
AGAIN = (408, 425, 429, 500, 502, 503, 504)
Json = dict[str, Any]


class Refused(SpecError):
    """A request that the server does not take. `status` is HTTP's, `code` OpenAI's word for why, if any."""

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class TryAgain(Unreachable):
    """The server cannot answer now. `seconds`: when it wants to be asked again, where it says so."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class ApiClient:
    """A server's API; callable from several threads. The API key comes from $NANOCHAT_API_KEY."""

    def __init__(self, url: str, *, connections: int = 16, attempts: int = ATTEMPTS) -> None:
        """`url`: with or without /v1. Raises SpecError for what is no address, and for one with a password in it."""
        self.url = address_of(url)
        if "@" in urlsplit(self.url).netloc:
            raise SpecError(f"Keep passwords out of the address: it is written down. Set {API_KEY} instead.")
        key = os.environ.get(API_KEY)
        self._attempts = attempts
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=not is_loopback(self.url),  # no proxy stands before this machine
        )

    def get(self, path: str) -> Json:
        """Return the answer to a look-up, tried once. Raises Refused, or Unreachable where nobody answers."""
        return self._once("GET", path, None)

    def post(self, path: str, body: Json) -> Json:
        """Return the answer. A `path` that begins with / is the server's own, beside the API. Raises as `get` does."""
        retrying = Retrying(
            retry=retry_if_exception_type(TryAgain),
            stop=stop_after_attempt(self._attempts),
            wait=_wait_seconds,
            reraise=True,
        )
        return retrying(self._once, "POST", path, body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _once(self, method: str, path: str, body: Json | None) -> Json:
        url = f"{self.url.removesuffix('/v1')}{path}" if path.startswith("/") else f"{self.url}/{path}"
        try:
            response = self._client.request(method, url, json=body)
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise TryAgain(
                f"{self.url} does not answer ({why}): is the server running, and is that its address?"
            ) from None
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Refused(f"{url} answers with what is no JSON object: is this OpenAI's API?", status=200)
        return answer

    def _refusal(self, response: httpx.Response) -> Exception:
        """Return what a status other than 200 means, with the server's own words."""
        status, (said, code) = response.status_code, words_of(response)
        said = said.rstrip(".")
        if status in (401, 403):
            return Refused(f"{self.url} wants another API key ({said}): set {API_KEY}.", status=status, code=code)
        if status in AGAIN and code != "insufficient_quota":
            seconds = retry_after(response.headers.get("Retry-After"))
            message = f"{self.url} could not answer, with status {status}: {said}. Run the same again: it goes on."
            if seconds is None or seconds <= MAX_RETRY_AFTER:
                return TryAgain(message, seconds)
            return Unreachable(f"{message} It wants to be asked again in {seconds:.0f} seconds.")
        return Refused(f"{self.url} refuses this with status {status}: {said}.", status=status, code=code)


def _wait_seconds(state: RetryCallState) -> float:
    """Return how long to wait before the next attempt: as the server says, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgain) and error.seconds is not None:
        return error.seconds
    return wait_exponential(multiplier=0.5, max=MAX_WAIT_SECONDS)(state)


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110: seconds, or a date); None where it says nothing.

    >>> retry_after("2"), retry_after("Thu, 01 Jan 1970 00:00:09 GMT"), retry_after("soon")
    (2.0, 0.0, None)
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def address_of(url: str) -> str:
    """Return the address below which the API lies; raises SpecError for what is no address.

    >>> address_of("localhost:8000"), address_of("https://example.org/api/v1/")
    ('http://localhost:8000/v1', 'https://example.org/api/v1')
    """
    whole = url if "//" in url else f"http://{url}"
    if not _is_address(whole):
        raise SpecError(f"{url!r} is no address of a server; expected for example http://127.0.0.1:8000.")
    parts = urlsplit(whole)
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return urlunsplit((parts.scheme, parts.netloc, path if path.endswith("/v1") else f"{path}/v1", "", ""))


def _is_address(url: str) -> bool:
    try:
        httpx.URL(url)
        parts = urlsplit(url)
        is_named = bool((parts.hostname or "").encode("idna"))
        return parts.scheme in ("http", "https") and is_named and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False


def is_loopback(url: str) -> bool:
    """Tell whether an address is this machine's own.

    >>> is_loopback("http://127.0.0.1:8000/v1"), is_loopback("https://example.org/v1")
    (True, False)
    """
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def words_of(response: httpx.Response) -> tuple[str, str | None]:
    """Return the server's own words about an error, one line, and OpenAI's code for it."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return " ".join(response.text.split())[:200] or response.reason_phrase, None
    code = error.get("code") if isinstance(error, dict) else None
    return message_of(error), code if isinstance(code, str) else None


def message_of(error: Any) -> str:
    """Return what an error object says, on one line."""
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message).split())[:500]
