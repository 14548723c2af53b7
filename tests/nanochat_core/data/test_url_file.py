import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_core.data import retries
from nanochat_core.data.url_file import fetch_url
from nanochat_core.errors import DataError
from tests.hub_faults import refused
from tests.hub_miniature import write_miniature
from tests.hub_server import HubServer


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.01)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[HubServer]:
    """A server whose files the test may change."""
    with HubServer(write_miniature(tmp_path / "hub")) as server:
        yield server


def test_a_file_is_fetched_once_and_its_hash_recorded(own_server: HubServer, tmp_path: Path) -> None:
    first = fetch_url(own_server.words_url, tmp_path / "downloads")
    again = fetch_url(own_server.words_url, tmp_path / "downloads")
    assert first == again and first.read_bytes() == (own_server.root / "words/words_alpha.txt").read_bytes()
    assert own_server.requests["/words_alpha.txt"] == 1
    record = json.loads(first.with_name(f"{first.name}.json").read_text())
    assert record["url"] == own_server.words_url and record["size"] == first.stat().st_size


def test_other_bytes_than_the_first_time_are_refused(own_server: HubServer, tmp_path: Path) -> None:
    path = fetch_url(own_server.words_url, tmp_path / "downloads")
    path.unlink()
    (own_server.root / "words/words_alpha.txt").write_text("other\nwords\n")
    with pytest.raises(DataError, match=r"now has the SHA-256 .* the first download had"):
        fetch_url(own_server.words_url, tmp_path / "downloads")
    assert not path.exists()


def test_a_file_damaged_on_disk_is_fetched_again(own_server: HubServer, tmp_path: Path) -> None:
    path = fetch_url(own_server.words_url, tmp_path / "downloads")
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    assert fetch_url(own_server.words_url, tmp_path / "downloads").read_bytes() == whole


def test_a_server_that_fails_for_a_moment_is_asked_again(own_server: HubServer, tmp_path: Path) -> None:
    own_server.fail("/words_alpha.txt", [refused(503), refused(429, retry_after="0")])
    assert fetch_url(own_server.words_url, tmp_path).exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("{endpoint}/nothing.zip", "answers 404"),
        ("http://127.0.0.1:9/words.txt", "Cannot reach"),
        ("file:///etc/passwd", "no http"),
    ],
)
def test_a_bad_url_ends_in_one_line(own_server: HubServer, tmp_path: Path, url: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        fetch_url(url.format(endpoint=own_server.endpoint), tmp_path / "downloads")
    assert "\n" not in str(caught.value)
