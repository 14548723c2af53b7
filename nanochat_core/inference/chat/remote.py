"""A chat with a server that speaks OpenAI's API: `nanochat serve`, or any other. Torch-free.

Answers come as server-sent events. Our own server also tells tool calls (`delta.nanochat`) and how many of the oldest
messages did not fit; other servers leave these out.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx

from nanochat_core.errors import SpecError, Unreachable
from nanochat_core.inference.chat.session import ChatEvent, Ended, Message, Said, TalkFailed, dropped_note, text_of
from nanochat_core.inference.chat.spec import AnswerSettings, ChatSpec
from nanochat_core.inference.openai_api import (
    API_KEY,
    CONNECT_SECONDS,
    SILENCE_SECONDS,
    Json,
    address_of,
    is_loopback,
    message_of,
    words_of,
)


class RemoteTalker:
    """`Talker` over HTTP."""

    def __init__(self, url: str, *, api_key: str | None, model_name: str | None) -> None:
        self.url = address_of(url)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not is_loopback(self.url),  # no proxy stands before this machine
        )
        self.name = model_name or self._first_model()

    def _first_model(self) -> str:
        """Return the first model that the server lists."""
        try:
            response = self._client.get(f"{self.url}/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code != 200:
            raise self._refused(response)
        try:
            return str(response.json()["data"][0]["id"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise TalkFailed(f"{self.url}/models lists no model: name one, or check the address.") from None

    def answer(self, messages: Sequence[Message], settings: AnswerSettings) -> Iterator[ChatEvent]:
        """Yield the answer as it comes; closing it closes the connection, and the server stops."""
        body = request_body(self.name, messages, settings)
        try:
            with self._client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response)
                yield from events_of(response)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        why = str(error) or type(error).__name__
        return Unreachable(f"{self.url} does not answer ({why}): is the server running, and is that its address?")

    def _refused(self, response: httpx.Response) -> Exception:
        """Return what a status other than 200 means, with the server's own words."""
        said = words_of(response)[0].rstrip(".")
        if response.status_code in (401, 403):
            return SpecError(f"{self.url} wants another API key ({said}): set {API_KEY}, or give --api-key-file.")
        if response.status_code in (429, 503):
            seconds = response.headers.get("Retry-After")
            return TalkFailed(f"The server is busy ({said}): try again{f' in {seconds} seconds' if seconds else ''}.")
        if response.status_code < 500:
            return SpecError(f"The server refuses this with status {response.status_code}: {said}.")
        return TalkFailed(f"The server broke with status {response.status_code}: {said}.")


def connect(spec: ChatSpec) -> RemoteTalker:
    """Return the server at the spec's URL; raises Unreachable or SpecError where it does not answer as one."""
    assert spec.url is not None
    key = read_key(Path(spec.api_key_file)) if spec.api_key_file else os.environ.get(API_KEY)
    return RemoteTalker(spec.url, api_key=key, model_name=spec.model_name)


def read_key(path: Path) -> str:
    """Return the key in a file: its first line that is neither empty nor a remark. Raises SpecError."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--api-key-file {path} cannot be read ({error}).") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise SpecError(f"--api-key-file {path} is empty; expected the key on a line.")
    return keys[0]


def request_body(model: str, messages: Sequence[Message], settings: AnswerSettings) -> Json:
    """Return the body of a request. Fields that OpenAI does not know are sent only where they say something."""
    system = [{"role": "system", "content": settings.system}] if settings.system else []
    body: Json = {
        "model": model,
        "messages": [*system, *map(wire_message, messages)],
        "stream": True,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    optional = {"top_k": settings.top_k, "seed": settings.seed}
    optional |= {"top_p": settings.top_p if settings.top_p < 1 else None, "min_p": settings.min_p or None}
    return body | {name: value for name, value in optional.items() if value is not None}


def wire_message(message: Message) -> Json:
    """Return a message as OpenAI has it, and its parts beside it where only they say all."""
    content = message["content"]
    sent = {"role": message["role"], "content": text_of(content)}
    if not isinstance(content, str) and any(part["type"] != "text" for part in content):
        sent["nanochat_parts"] = content
    return sent


def events_of(response: httpx.Response) -> Iterator[ChatEvent]:
    """Yield what a streamed answer says; raises TalkFailed where the server breaks it off."""
    ended = False
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        for event in _events_of_chunk(data):
            ended = ended or isinstance(event, Ended)
            yield event
    if not ended:
        raise TalkFailed("The server broke the answer off.")


def _events_of_chunk(data: str) -> list[ChatEvent]:
    try:
        return list(chunk_events(json.loads(data)))
    except (ValueError, AttributeError, KeyError, TypeError):
        raise TalkFailed(f"The server sent what is no chunk of an answer: {data[:100]!r}.") from None


def chunk_events(chunk: Mapping[str, Any]) -> Iterator[ChatEvent]:
    """Yield what one chunk says; raises TalkFailed for one that tells of an error.

    >>> [event.text for event in chunk_events({"choices": [{"delta": {"content": "Hi"}}]})]
    ['Hi']
    """
    if error := chunk.get("error"):
        raise TalkFailed(f"The server broke the answer off: {message_of(error)}")
    if dropped := chunk.get("nanochat_dropped_messages"):
        yield dropped_note(dropped)
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        if tool := delta.get("nanochat"):
            kind: Literal["python", "python_output"] = "python_output" if "output" in tool["kind"] else "python"
            yield Said(kind, tool["text"])
        if text := delta.get("content"):
            yield Said("text", text)
        if reason := choice.get("finish_reason"):
            yield Ended(reason)
