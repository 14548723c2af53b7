from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from nanochat_core.artifacts import sha256_of
from nanochat_core.data.remote import retries
from nanochat_core.data.remote.hub import HubDataset
from nanochat_core.data.remote.hub_store import HubFile
from nanochat_core.errors import DataError
from tests.hub_miniature import write_miniature
from tests.hub_server import VALID_TOKEN, HubServer

GSM8K = "openai/gsm8k"
TEST_FILE = "main/test-00000-of-00001.parquet"
SECRET = "hf_aSecretThatMustNeverBeShown"


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.01)


def dataset(server: HubServer, store: Path, repository: str = GSM8K, **settings: str) -> HubDataset:
    return HubDataset(repository, store=store, endpoint=server.endpoint, **settings)


def listed(source: HubDataset, path: str = TEST_FILE) -> HubFile:
    return next(file for file in source.files() if file.path == path)


def test_files_are_listed_with_size_and_hash(hub_server: HubServer, tmp_path: Path) -> None:
    original = hub_server.folder_of(GSM8K) / TEST_FILE
    file = listed(dataset(hub_server, tmp_path))
    assert (file.size, file.sha256) == (original.stat().st_size, sha256_of(original))


def test_a_fetched_file_has_the_same_bytes_and_leaves_nothing_half_done(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path)
    path = source.fetch(listed(source))
    assert path.read_bytes() == (hub_server.folder_of(GSM8K) / TEST_FILE).read_bytes()
    assert not [found for found in tmp_path.rglob("*") if found.suffix in (".part", ".tmp")]


def test_fetching_twice_downloads_once(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path)
    file = listed(source)
    assert source.fetch(file) == source.fetch(file)
    assert hub_server.requests[hub_server.url_path_of(GSM8K, TEST_FILE)] == 1


def test_a_file_damaged_on_disk_is_fetched_again(hub_server: HubServer, tmp_path: Path) -> None:
    source = dataset(hub_server, tmp_path)
    file = listed(source)
    source.fetch(file).write_bytes(b"x" * file.size)
    assert sha256_of(source.fetch(file)) == file.sha256


def test_what_the_client_itself_has_downloaded_is_taken_from_its_cache(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    source = dataset(hub_server, tmp_path / "store")
    file = listed(source)
    downloaded = hf_hub_download(
        GSM8K, TEST_FILE, repo_type="dataset", revision=file.commit, endpoint=source.endpoint, cache_dir=tmp_path / "hf"
    )
    sent = hub_server.sent[hub_server.url_path_of(GSM8K, TEST_FILE)]
    assert source.fetch(file).samefile(downloaded)
    assert hub_server.sent[hub_server.url_path_of(GSM8K, TEST_FILE)] == sent == file.size


def test_another_commit_with_the_same_file_downloads_nothing(tmp_path: Path) -> None:
    root = write_miniature(tmp_path / "hub")
    with HubServer(root) as server:
        source = dataset(server, tmp_path / "store")
        first = source.fetch(listed(source))
        (root / "datasets" / GSM8K / "README.md").write_text("a new commit")
        again = listed(source)
        assert first.name.startswith(again.sha256[:16])
        assert source.fetch(again) == first and server.requests[server.url_path_of(GSM8K, TEST_FILE)] == 0


def test_a_commit_is_listed_once(hub_server: HubServer, tmp_path: Path) -> None:
    commit = hub_server.commit_of(GSM8K)
    main, pinned = (dataset(hub_server, tmp_path, revision=revision) for revision in ("main", commit))
    assert main.files() == pinned.files() == main.files()
    assert hub_server.requests[f"/api/datasets/{GSM8K}/revision/{commit}"] == 0
    assert hub_server.requests[f"/api/datasets/{GSM8K}/revision/main"] == 2


def test_a_wrong_token_is_named_but_never_shown(hub_server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused the token") as caught:
        dataset(hub_server, tmp_path, token=SECRET).files()
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)
    assert sum(hub_server.requests.values()) == 1  # refused is refused: no retries


@pytest.mark.parametrize("token", [f"{SECRET}\u2026", f"{SECRET} more", f"{SECRET}\nx"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(tmp_path: Path, token: str) -> None:
    with pytest.raises(DataError, match="HF_TOKEN holds characters") as caught:
        HubDataset(GSM8K, store=tmp_path, token=token)
    assert SECRET not in str(caught.value)


def test_the_right_token_is_accepted(hub_server: HubServer, tmp_path: Path) -> None:
    assert listed(dataset(hub_server, tmp_path, token=VALID_TOKEN))


def test_a_missing_data_set_or_revision_says_what_to_check(hub_server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Check the name"):
        dataset(hub_server, tmp_path, "nobody/nothing").files()
    with pytest.raises(DataError, match="no such revision"):
        dataset(hub_server, tmp_path, revision="v9").files()


def test_no_network_ends_in_one_line(tmp_path: Path) -> None:
    unreachable = HubDataset(GSM8K, endpoint="http://127.0.0.1:9", store=tmp_path)
    with pytest.raises(DataError, match="Cannot reach") as caught:
        unreachable.files()
    assert "\n" not in str(caught.value)


def test_offline_takes_the_store_and_says_what_is_not_in_it(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataset(hub_server, tmp_path / "store")
    files = source.files()
    path = source.fetch(listed(source))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub_server.visits)
    assert source.files() == files and source.fetch(listed(source)) == path
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set and .* does not have main/train-.*\.parquet"):
        source.fetch(listed(source, TEST_FILE.replace("test", "train")))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        dataset(hub_server, tmp_path / "empty").files()
    assert len(hub_server.visits) == asked
