"""Public vocabularies come from tiktoken's cache; the network is asked where that is wanted, and never for long."""

import hashlib
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import tiktoken.load
from tiktoken_ext import openai_public

from nanochat_core.tokenizer import public_vocabularies
from nanochat_core.tokenizer.public_vocabularies import (
    SERVER,
    VOCABULARIES,
    PublicVocabulary,
    cached_path,
    is_cached,
    public_encodings,
)

CONTENT = b"aGk= 0\n"


class Files(BaseHTTPRequestHandler):
    """Answers everything with CONTENT, and counts."""

    asked = 0

    def do_GET(self) -> None:
        Files.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of tiktoken's."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server in the place of OpenAI's."""
    Files.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as http:
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(public_vocabularies, "SERVER", f"http://127.0.0.1:{http.server_port}")
        yield
        http.shutdown()


def test_without_a_wish_to_fetch_no_server_is_asked(cache: Path, server: None) -> None:
    assert public_encodings(fetch=False) == {}
    assert Files.asked == 0


def test_an_offline_machine_asks_no_server(cache: Path, server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert public_encodings(fetch=True) == {}
    assert Files.asked == 0


def test_other_bytes_than_expected_are_not_taken(cache: Path, server: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert public_encodings(fetch=True) == {}
    assert Files.asked == 1
    assert list(cache.iterdir()) == []
    assert capsys.readouterr().out == "GPT-2's vocabulary was not fetched: ValueError\n"


def test_a_server_that_never_answers_is_left_in_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(public_vocabularies, "SERVER", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(public_vocabularies, "FETCH_SECONDS", 0.2)
        started = time.monotonic()
        assert public_encodings(fetch=True) == {}
        assert time.monotonic() - started < 5


def test_a_file_is_fetched_into_the_cache_and_found_there(cache: Path, server: None) -> None:
    tiny = PublicVocabulary("Tiny", 1, {"tiny.tiktoken": hashlib.sha256(CONTENT).hexdigest()})
    assert not is_cached(tiny)
    public_vocabularies._fetch([tiny])
    assert is_cached(tiny)
    cached_path("tiny.tiktoken").write_bytes(CONTENT[:-1])
    assert not is_cached(tiny)


def test_the_files_are_those_that_tiktoken_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    def record(url: str, sha256: str) -> bytes:
        asked[url] = sha256
        return b"{}"

    monkeypatch.setattr(tiktoken.load, "read_file_cached", record)
    for name, vocabulary in VOCABULARIES.items():
        asked.clear()
        with pytest.raises((AssertionError, ValueError)):  # the answer is no vocabulary
            openai_public.ENCODING_CONSTRUCTORS[name]()
        assert asked == {f"{SERVER}/{path}": sha256 for path, sha256 in vocabulary.files.items()}
