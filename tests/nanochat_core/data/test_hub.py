from pathlib import Path

import pytest

from nanochat_core.artifacts import sha256_of
from nanochat_core.data import retries
from nanochat_core.data.hub import HubDataset, HubFile
from nanochat_core.errors import DataError
from tests.hub_server import VALID_TOKEN, HubServer

GSM8K = "openai/gsm8k"
TEST_FILE = "main/test-00000-of-00001.parquet"
SECRET = "hf_aSecretThatMustNeverBeShown"


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.01)


def dataset(server: HubServer, cache: Path, repository: str = GSM8K, **settings: str) -> HubDataset:
    return HubDataset(repository, endpoint=server.endpoint, cache_dir=cache, **settings)


def listed(source: HubDataset, path: str = TEST_FILE) -> HubFile:
    return next(file for file in source.files() if file.path == path)


def test_files_are_listed_with_size_and_hash(hub_server: HubServer, tmp_path: Path) -> None:
    original = hub_server.folder_of(GSM8K) / TEST_FILE
    file = listed(dataset(hub_server, tmp_path))
    assert (file.size, file.sha256) == (original.stat().st_size, sha256_of(original))


def test_a_fetched_file_is_a_real_file_with_the_same_bytes(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path / "cache")
    source.fetch(listed(source), tmp_path / "out" / "test.parquet")
    target = tmp_path / "out" / "test.parquet"
    assert target.is_file() and not target.is_symlink()
    assert target.read_bytes() == (hub_server.folder_of(GSM8K) / TEST_FILE).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["test.parquet"]


def test_fetching_twice_downloads_once(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path / "cache")
    file = listed(source)
    for _ in range(2):
        source.fetch(file, tmp_path / "test.parquet")
    assert hub_server.requests[f"/datasets/{GSM8K}/resolve/main/{TEST_FILE}"] <= 3  # HEAD, GET, HEAD


def test_a_file_damaged_in_the_cache_is_fetched_again(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path / "cache")
    file = listed(source)
    source.fetch(file, tmp_path / "first.parquet")
    (tmp_path / "first.parquet").write_bytes(b"x" * file.size)  # the same inode as the cache's
    source.fetch(file, tmp_path / "second.parquet")
    assert sha256_of(tmp_path / "second.parquet") == file.sha256


def test_a_file_that_stays_different_is_refused(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path / "cache")
    wrong = HubFile(TEST_FILE, listed(source).size, "0" * 64)
    with pytest.raises(DataError, match="another SHA-256"):
        source.fetch(wrong, tmp_path / "test.parquet")
    assert not (tmp_path / "test.parquet").exists()


@pytest.mark.parametrize(
    "path", [f"/api/datasets/{GSM8K}/revision/main", f"/datasets/{GSM8K}/resolve/main/{TEST_FILE}"]
)
def test_a_server_that_fails_for_a_moment_is_asked_again(hub_server: HubServer, tmp_path: Path, path: str) -> None:
    hub_server.failures[path] = 1
    source = dataset(hub_server, tmp_path)
    source.fetch(listed(source), tmp_path / "test.parquet")
    assert (tmp_path / "test.parquet").exists()


def test_a_wrong_token_is_named_but_never_shown(hub_server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused the token") as caught:
        dataset(hub_server, tmp_path, token=SECRET).files()
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)
    assert sum(hub_server.requests.values()) == 1  # refused is refused: no retries


@pytest.mark.parametrize("token", [f"{SECRET}\u2026", f"{SECRET} more", f"{SECRET}\nx"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(tmp_path: Path, token: str) -> None:
    with pytest.raises(DataError, match="HF_TOKEN holds characters") as caught:
        HubDataset(GSM8K, token=token)
    assert SECRET not in str(caught.value)


def test_the_right_token_is_accepted(hub_server: HubServer, tmp_path: Path) -> None:
    assert listed(dataset(hub_server, tmp_path, token=VALID_TOKEN))


def test_a_missing_data_set_or_revision_says_what_to_check(hub_server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Check the name"):
        dataset(hub_server, tmp_path, "nobody/nothing").files()
    with pytest.raises(DataError, match="no such revision"):
        dataset(hub_server, tmp_path, revision="v9").files()


def test_no_network_ends_in_one_line(tmp_path: Path) -> None:
    unreachable = HubDataset(GSM8K, endpoint="http://127.0.0.1:9", cache_dir=tmp_path)
    with pytest.raises(DataError, match="Cannot reach") as caught:
        unreachable.files()
    assert "\n" not in str(caught.value)


def test_offline_takes_the_cache_and_says_when_it_is_empty(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataset(hub_server, tmp_path / "cache")
    online = listed(source)
    source.fetch(online, tmp_path / "online.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = sum(hub_server.requests.values())
    offline = listed(source)
    source.fetch(offline, tmp_path / "offline.parquet")
    assert offline.sha256 == online.sha256 and sum(hub_server.requests.values()) == asked
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        dataset(hub_server, tmp_path / "empty").files()
