"""HTTP by hand, for what no well-behaved client sends."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


@contextmanager
def connection(url: str, seconds: float = 60.0) -> Iterator[socket.socket]:
    """Yield a connection to the server of an address."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as link:
        yield link


def post(path: str, body: Any, *headers: str) -> bytes:
    """Return a POST request; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def read_answer(link: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Return (status, headers, body) of an answer; the body to the connection's end where its length is not said."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(link)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", 1 << 30))
    while len(body) < length:
        more = link.recv(65_536)
        if not more:
            break
        body += more
    return int(status.split()[1]), headers, body


def read_until(link: socket.socket, words: bytes) -> bytes:
    """Return what comes, up to and with the words at least."""
    data = b""
    while words not in data:
        data += _more(link)
    return data


def is_closed(link: socket.socket) -> bool:
    """Wait for the server to close the connection; return whether it did within the connection's time."""
    try:
        while link.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _more(link: socket.socket) -> bytes:
    data = link.recv(65_536)
    assert data, "the server closed the connection"
    return data


def error_of(body: bytes) -> dict[str, Any]:
    """Return the error of an answer, which must have OpenAI's form and nothing more."""
    value = json.loads(body)
    assert set(value) == {"error"} and set(value["error"]) == {"message", "type", "param", "code"}, value
    assert isinstance(value["error"]["message"], str) and value["error"]["message"]
    return dict(value["error"])
