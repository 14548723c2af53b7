"""What the serving flow asks a server over HTTP: is it ready, is it well, and does it answer a question?"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import Field

from nanochat_core.errors import NanochatError
from nanochat_core.spec_base import Spec

BUSY = (429, 503)
BUSY_SECONDS = 1.0  # between two questions to a server that is busy


class SmokeTest(Spec):
    """The first question to a new server, over HTTP like everybody's. An error or an empty answer fails the run."""

    prompt: str = Field("What is 12*7?", min_length=1, description="what is asked")
    max_tokens: int = Field(16, ge=1, le=4_096, description="tokens of the answer at most")
    seconds: float = Field(120.0, gt=0, le=3_600, description="seconds in which the answer must come")


def reachable(url: str) -> str:
    """Return where this machine asks a server whose address is `url`: the path is that of a proxy in front of it.

    >>> reachable("http://127.0.0.1:8000/chat")
    'http://127.0.0.1:8000'
    """
    return urlunsplit(urlsplit(url)._replace(path=""))


def trouble_of(url: str, path: str, *, seconds: float) -> str | None:
    """Return what is wrong with a GET of this path: no answer in time, or another status than 200; None if nothing.

    `seconds` limits each of connecting, sending and reading.
    """
    try:
        status = httpx.get(f"{reachable(url)}{path}", timeout=seconds, trust_env=False).status_code
    except httpx.TimeoutException:
        return f"no answer in {seconds:g} s"
    except (httpx.HTTPError, OSError) as error:
        return in_words(error)
    return None if status == 200 else f"HTTP {status}"


def first_answer(
    url: str, model: str, test: SmokeTest, *, is_chat: bool, key: str | None, is_running: Callable[[], bool]
) -> str:
    """Return what the model answers. A server that is busy is asked again until the time is over.

    Raises NanochatError for an error, an answer without text, none in time, or a server that is gone.
    """
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    prompt = {"messages": [{"role": "user", "content": test.prompt}]} if is_chat else {"prompt": test.prompt}
    body = {"model": model, "max_tokens": test.max_tokens, "temperature": 0, **prompt}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    deadline = time.monotonic() + test.seconds
    words = "no answer"
    while is_running() and (left := deadline - time.monotonic()) > 0:
        try:
            reply = httpx.post(f"{reachable(url)}{path}", json=body, headers=headers, timeout=left, trust_env=False)
        except httpx.TimeoutException:
            break
        except (httpx.HTTPError, OSError) as error:
            raise failed(
                test, f"the connection broke ({' '.join(str(error).split()) or type(error).__name__})"
            ) from None
        if reply.status_code not in BUSY:
            return text_of(reply, test, is_chat=is_chat)
        words = f"it was busy all the time (HTTP {reply.status_code})"
        time.sleep(min(BUSY_SECONDS, left))
    raise failed(test, f"{words} in {test.seconds:g} s" if is_running() else "the server has ended")


def in_words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def text_of(reply: httpx.Response, test: SmokeTest, *, is_chat: bool) -> str:
    """Return the text of an answer, tool calls included."""
    if reply.status_code != 200:
        raise failed(test, f"HTTP {reply.status_code}: {' '.join(reply.text.split())[:300]}")
    try:
        choice: Any = reply.json()["choices"][0]
        content = choice["message"]["content"] if is_chat else choice["text"]
        parts = choice["message"].get("nanochat_parts", []) if is_chat else []
        text = content or "".join(str(part["text"]) for part in parts)
        is_empty = not str(text).strip()
    except (ValueError, LookupError, TypeError, AttributeError):
        raise failed(test, f"an answer that is none: {' '.join(reply.text.split())[:300]}") from None
    if is_empty:
        raise failed(test, f"an empty answer (finish_reason {choice.get('finish_reason')!r})")
    return str(text)


def failed(test: SmokeTest, what: str) -> NanochatError:
    return NanochatError(f"The new server failed its smoke test, {test.prompt!r}: {what}.")


def first_key(api_keys_file: str | None) -> str | None:
    """Return a key that the server takes, from its file or $NANOCHAT_API_KEYS; None where it asks for none."""
    if api_keys_file is None:
        keys = os.environ.get("NANOCHAT_API_KEYS", "").split(",")
    else:
        keys = Path(api_keys_file).read_text(encoding="utf-8").splitlines()
    found = [key.strip() for key in keys]
    return next((key for key in found if key and not key.startswith("#")), None)
