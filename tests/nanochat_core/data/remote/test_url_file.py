import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_core.data.remote import retries, transfer, url_file
from nanochat_core.data.remote.url_file import fetch_url
from nanochat_core.errors import DataError, Unreachable
from tests.hub_faults import cut_short, dropped, for_ever, refused, reset_after, silent, stalled_after
from tests.hub_miniature import write_miniature
from tests.hub_server import Fault, HubServer


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


@pytest.mark.parametrize("fault", [cut_short(50), reset_after(50), stalled_after(50), dropped(), silent()])
def test_a_broken_transfer_begins_again_and_mixes_nothing(
    own_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    own_server.fail("/words_alpha.txt", [fault])
    path = fetch_url(own_server.words_url, tmp_path / "downloads")
    assert path.read_bytes() == (own_server.root / "words/words_alpha.txt").read_bytes()
    assert [visit.start for visit in own_server.visits] == [0, 0]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.json"]


@pytest.mark.parametrize(
    ("fault", "expected"), [(refused(500), "status 500"), (refused(429, retry_after="900"), "asks to wait 900 s")]
)
def test_a_server_that_stays_broken_ends_in_one_line(
    own_server: HubServer, tmp_path: Path, fault: Fault, expected: str
) -> None:
    own_server.fail("/words_alpha.txt", for_ever(fault))
    with pytest.raises(Unreachable, match=expected) as caught:
        fetch_url(own_server.words_url, tmp_path / "downloads")
    assert "\n" not in str(caught.value) and not list((tmp_path / "downloads").iterdir())


def test_a_file_that_is_too_large_is_refused(
    own_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 100)
    monkeypatch.setattr(url_file, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="that is not the file meant"):
        fetch_url(own_server.words_url, tmp_path / "downloads")
    assert not list((tmp_path / "downloads").iterdir())


def test_offline_a_file_is_taken_where_it_is_and_said_to_be_missing_where_not(
    own_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch_url(own_server.words_url, tmp_path / "downloads")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_url(own_server.words_url, tmp_path / "downloads") == path
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set and .* was never downloaded"):
        fetch_url(own_server.words_url, tmp_path / "elsewhere")


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
