"""What goes wrong on the way from the Hub to a shard that is trained on: it recovers, or ends in one line."""

import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from nanochat_core import artifacts, paths
from nanochat_core.artifacts import sha256_of
from nanochat_core.data.download import work
from nanochat_core.data.remote import retries, transfer
from nanochat_core.data.remote.hub_shards import WantedShard, fetch_shard, stored_shard, wanted_shards
from nanochat_core.data.remote.hub_store import folder_of, place_of
from nanochat_core.data.shards import TextShards
from nanochat_core.errors import DataError, Unreachable
from nanochat_core.specs import DownloadSpec
from tests.hub_faults import (
    admitted_short,
    changed,
    cut_short,
    dropped,
    for_ever,
    moved,
    prose,
    refused,
    reset_after,
    silent,
    stalled_after,
    unranged,
)
from tests.hub_miniature import write_miniature
from tests.hub_server import VALID_TOKEN, Fault, HubServer
from tests.nanochat_core.data.test_download import one_line, write_request

TEXT = "karpathy/fineweb-edu-100b-shuffle"
LISTING = f"/api/datasets/{TEXT}/revision/main"
PART = 7000  # bytes that arrive before a fault: four times that is less than a shard
FAULTS = {
    "status 500": refused(500),
    "status 503": refused(503),
    "status 429": refused(429, retry_after="0"),
    "no answer": silent(),
    "a dropped connection": dropped(),
    "a body cut short": cut_short(PART),
    "a body announced short": admitted_short(PART),
    "a connection reset in the middle": reset_after(PART),
    "silence in the middle": stalled_after(PART),
    "other bytes": changed(),
}
RESUMED = [name for name, fault in FAULTS.items() if fault.after == PART]


@pytest.fixture(autouse=True)
def _hurried(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("HF_ENDPOINT", hub_server.endpoint)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Wait 0.25 s for a byte, not 10, where the fault is silence; elsewhere a slow machine must not look like one."""

    def shorten(fault: Fault) -> None:
        if fault.ending == "silence":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.25)
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.25)

    return shorten


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server whose files the test may change."""
    with HubServer(write_miniature(tmp_path / "hub")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def wanted(base: Path, train_shards: int | None = 2) -> list[WantedShard]:
    return wanted_shards(DownloadSpec(source="hub", train_shards=train_shards), base)


def url_path(server: HubServer, shard: WantedShard) -> str:
    return server.url_path_of(TEXT, shard.path)


def file_of(base: Path, shard: WantedShard) -> Path:
    """Where the shard is, once it counts."""
    return place_of(folder_of(paths.hub_dir(base), TEXT), shard.file)


def part_of(base: Path, shard: WantedShard) -> Path:
    path = file_of(base, shard)
    return path.with_name(f".{path.name}.part")


@pytest.fixture
def run_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str | None]:
    """Run the download stage in this process; return the one line that it ends in, or None where it succeeds."""

    def run(base: Path = tmp_path, train_shards: int | None = 2, **params: object) -> str | None:
        request = write_request(base, source="hub", train_shards=train_shards, **params)
        monkeypatch.setattr(sys, "argv", ["download", str(request)])
        try:
            artifacts.run_stage(work)
        except SystemExit as stopped:
            assert not (request.parent / "index.json").exists() and not (request.parent / "result.json").exists()
            return one_line(stopped.code, capsys.readouterr().err)
        return None

    return run


@pytest.mark.parametrize("name", FAULTS)
def test_a_shard_arrives_whole_in_spite_of(
    hub_server: HubServer, tmp_path: Path, impatient: Callable[[Fault], None], name: str
) -> None:
    shard = wanted(tmp_path)[0]
    impatient(FAULTS[name])
    path = url_path(hub_server, shard)
    hub_server.fail(path, [FAULTS[name]])
    stored = fetch_shard(shard, tmp_path)
    assert sha256_of(stored.path) == stored.sha256 == sha256_of(hub_server.folder_of(TEXT) / shard.path)
    assert stored.counts.documents == 120
    assert hub_server.requests[path] == 2 and not part_of(tmp_path, shard).exists()
    if name in RESUMED:
        assert hub_server.visits[-1].start == PART and hub_server.sent[path] == shard.size


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_ends_in_one_line_and_a_later_run_recovers_from(
    hub_server: HubServer, tmp_path: Path, impatient: Callable[[Fault], None], name: str
) -> None:
    shard = wanted(tmp_path)[0]
    impatient(FAULTS[name])
    path = url_path(hub_server, shard)
    hub_server.fail(path, for_ever(FAULTS[name]))
    with pytest.raises(DataError) as caught:
        fetch_shard(shard, tmp_path)
    assert shard.path in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, Unreachable) == (name != "other bytes")
    arrived = pickle.loads(pickle.dumps(caught.value))  # as from another process or machine
    assert (type(arrived), str(arrived)) == (type(caught.value), str(caught.value))
    assert stored_shard(shard, tmp_path) is None and not file_of(tmp_path, shard).exists()
    asked, sent = hub_server.requests[path], hub_server.sent[path]
    assert asked == (2 if name == "other bytes" else retries.ATTEMPTS)
    hub_server.fail(path)
    assert fetch_shard(shard, tmp_path).sha256 == shard.sha256
    assert hub_server.requests[path] == asked + 1
    if name in RESUMED:
        assert hub_server.sent[path] == shard.size > sent


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in (*RESUMED, "other bytes")])
def test_the_list_of_files_arrives_in_spite_of(
    hub_server: HubServer, tmp_path: Path, impatient: Callable[[Fault], None], name: str
) -> None:
    impatient(FAULTS[name])
    hub_server.fail(LISTING, [FAULTS[name], cut_short(100), reset_after(100)])
    assert [shard.name for shard in wanted(tmp_path)] == [f"shard_{i:05d}.parquet" for i in range(3)]
    assert hub_server.requests[LISTING] == 4


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (refused(500), Unreachable, "status 500"),
        (silent(), Unreachable, "ReadTimeout"),
        (prose("<html>Please log in</html>"), DataError, "is no list of files"),
        (prose("[1, 2]"), DataError, "is no list of files"),
    ],
)
def test_without_a_list_of_files_there_is_one_line(
    hub_server: HubServer,
    tmp_path: Path,
    impatient: Callable[[Fault], None],
    fault: Fault,
    kind: type[DataError],
    said: str,
) -> None:
    impatient(fault)
    hub_server.fail(LISTING, for_ever(fault))
    began = time.monotonic()
    with pytest.raises(kind, match=said) as caught:
        wanted(tmp_path)
    assert "\n" not in str(caught.value) and time.monotonic() - began < 5


def test_a_server_that_asks_to_wait_is_waited_for(hub_server: HubServer, tmp_path: Path) -> None:
    shard = wanted(tmp_path)[0]
    hub_server.fail(url_path(hub_server, shard), [refused(429, retry_after="1")])
    fetch_shard(shard, tmp_path)
    first, second = hub_server.visits[-2:]
    assert 1.0 <= second.time - first.time < 3


def test_a_server_that_asks_for_an_hour_is_reported_at_once(hub_server: HubServer, tmp_path: Path) -> None:
    shard = wanted(tmp_path)[0]
    hub_server.fail(url_path(hub_server, shard), for_ever(refused(429, retry_after="3600")))
    with pytest.raises(Unreachable, match="status 429, asks to wait 3,600 s"):
        fetch_shard(shard, tmp_path)
    assert hub_server.requests[url_path(hub_server, shard)] == 1


def test_a_line_that_breaks_again_and_again_arrives_as_long_as_it_brings_enough(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = wanted(tmp_path)[0]
    hub_server.fail(url_path(hub_server, shard), for_ever(cut_short(3000)))
    with pytest.raises(Unreachable, match=r"\(12,000 of|\(RemoteProtocolError"):
        fetch_shard(shard, tmp_path)
    monkeypatch.setattr(transfer, "ENOUGH_PROGRESS_BYTES", 3000)
    fetch_shard(shard, tmp_path)
    assert hub_server.sent[url_path(hub_server, shard)] == shard.size


def test_a_server_that_knows_no_range_sends_all_again_and_nothing_is_read_twice(
    hub_server: HubServer, tmp_path: Path
) -> None:
    shard = wanted(tmp_path)[0]
    hub_server.fail(url_path(hub_server, shard), [cut_short(PART), unranged()])
    assert sha256_of(fetch_shard(shard, tmp_path).path) == shard.sha256
    assert hub_server.sent[url_path(hub_server, shard)] == PART + shard.size


def test_a_content_network_is_followed_and_gets_the_range_but_not_the_token(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", VALID_TOKEN)
    shard = wanted(tmp_path)[0]
    path = url_path(hub_server, shard)
    elsewhere = hub_server.endpoint.replace("127.0.0.1", "localhost") + path
    hub_server.fail(path, [cut_short(PART), moved(elsewhere)])
    assert sha256_of(fetch_shard(shard, tmp_path).path) == shard.sha256
    assert [visit.is_authorized for visit in hub_server.visits[-3:]] == [True, True, False]
    assert hub_server.visits[-1].start == PART


@pytest.mark.parametrize("left", ["another file's bytes", "too many bytes", "as many other bytes"])
def test_a_partial_file_that_is_not_of_this_shard_does_no_harm(
    hub_server: HubServer, tmp_path: Path, left: str
) -> None:
    shard = wanted(tmp_path)[0]
    sizes = {"another file's bytes": PART, "too many bytes": shard.size + 1, "as many other bytes": shard.size}
    part_of(tmp_path, shard).write_bytes(b"x" * sizes[left])
    assert sha256_of(fetch_shard(shard, tmp_path).path) == shard.sha256


DAMAGES = {
    "cut off and filled up": lambda data: data[:-8000] + bytes(8000),
    "overwritten in the middle": lambda data: data[:9000] + b"\xff" * 9000 + data[18000:],
    "no parquet at all": lambda data: b"PAR1" + bytes(len(data) - 8) + b"PAR1",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_parquet_that_is_damaged_on_the_hub_is_never_read_nor_fetched_twice(
    own_server: HubServer, tmp_path: Path, run_stage: Callable[..., str | None], damage: str
) -> None:
    bad = own_server.folder_of(TEXT) / "shard_00001.parquet"
    bad.write_bytes(DAMAGES[damage](bad.read_bytes()))  # the server announces the hash of what it has
    shard = wanted(tmp_path)[1]
    for _ in range(2):
        said = run_stage()
        assert "shard_00001.parquet" in said and "is of no use, and fetching it again would not help" in said
        assert not list((tmp_path / "artifacts/download/x/shards").iterdir())
        assert stored_shard(shard, tmp_path) is None
        assert own_server.sent[url_path(own_server, shard)] == shard.size


def test_one_bad_shard_keeps_no_other_back_and_a_second_run_fetches_only_it(
    hub_server: HubServer, tmp_path: Path, run_stage: Callable[..., str | None]
) -> None:
    shards = wanted(tmp_path)
    hub_server.fail(url_path(hub_server, shards[0]), for_ever(refused(500)))
    assert "1 of 3 shards failed (shard_00000.parquet), 2 are there and stay" in run_stage(num_workers=1)
    before = hub_server.requests
    hub_server.fail(url_path(hub_server, shards[0]))
    assert run_stage() is None
    new = hub_server.requests - before
    assert new == {LISTING: 1, url_path(hub_server, shards[0]): 1}
    assert hub_server.sent[url_path(hub_server, shards[1])] == shards[1].size
    assert len(TextShards.open(tmp_path / "artifacts/download/x").train) == 2


def test_a_second_run_over_a_finished_download_asks_for_the_list_only(
    hub_server: HubServer, tmp_path: Path, run_stage: Callable[..., str | None]
) -> None:
    assert run_stage() is None
    before = hub_server.requests
    shutil.rmtree(tmp_path / "artifacts")
    assert run_stage() is None
    assert hub_server.requests - before == {LISTING: 1}


def test_a_hub_that_is_gone_is_not_asked_for_every_shard(
    own_server: HubServer, tmp_path: Path, run_stage: Callable[..., str | None]
) -> None:
    folder = own_server.folder_of(TEXT)
    for index in range(3, 30):
        shutil.copy(folder / "shard_00000.parquet", folder / f"shard_{index:05d}.parquet")
        with open(folder / f"shard_{index:05d}.parquet", "ab") as file:
            file.write(bytes([index]))  # another hash: no file of another shard may be taken for it
    for shard in wanted(tmp_path, None):
        own_server.fail(url_path(own_server, shard), for_ever(refused(503)))
    said = run_stage(train_shards=None, num_workers=2)
    asked = {path for path in own_server.requests if path != LISTING}
    assert (
        f"{len(asked)} of 30 shards failed" in said and f"{30 - len(asked)} were not tried, none is there yet" in said
    )
    assert 2 <= len(asked) <= 6


def test_a_download_that_is_killed_goes_on_where_it_was(
    hub_server: HubServer, tmp_path: Path, run_stage: Callable[..., str | None]
) -> None:
    shard = wanted(tmp_path, 1)[0]
    path, part = url_path(hub_server, shard), part_of(tmp_path, shard)
    hub_server.fail(path, [stalled_after(PART)])
    request = write_request(tmp_path, source="hub", train_shards=1)
    stage = subprocess.Popen([sys.executable, "-m", "nanochat_core.data.download", str(request)])
    while not (part.exists() and hub_server.sent[path] == PART):
        time.sleep(0.02)
        assert stage.poll() is None
    time.sleep(0.1)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    kept = part.stat().st_size
    assert run_stage(train_shards=1) is None
    assert hub_server.visits[-1].path == LISTING or hub_server.visits[-1].start == kept
    assert hub_server.sent[path] == PART + shard.size - kept
    assert sha256_of(file_of(tmp_path, shard)) == shard.sha256


def test_offline_a_missing_shard_is_named_and_no_other_stands_in_for_it(
    hub_server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_stage: Callable[..., str | None],
) -> None:
    first, second, validation = wanted(tmp_path)
    assert run_stage(train_shards=1) is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub_server.visits)
    shutil.rmtree(tmp_path / "artifacts")
    assert run_stage(train_shards=1) is None
    shutil.rmtree(tmp_path / "artifacts")
    assert f"does not have {second.path} of" in run_stage(train_shards=2)
    file_of(tmp_path, validation).unlink()
    assert f"does not have {validation.path} of" in run_stage(train_shards=1)
    assert len(hub_server.visits) == asked and stored_shard(first, tmp_path)


def test_many_threads_and_processes_that_want_one_shard_fetch_it_once(hub_server: HubServer, tmp_path: Path) -> None:
    shard = wanted(tmp_path)[0]
    with ThreadPoolExecutor(4) as threads, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        jobs = [pool.submit(fetch_shard, shard, tmp_path) for pool in (processes, threads) for _ in range(4)]
        assert len({job.result() for job in jobs}) == 1
    assert hub_server.sent[url_path(hub_server, shard)] == shard.size


def test_a_shard_that_changed_on_disk_is_fetched_again_before_it_counts(hub_server: HubServer, tmp_path: Path) -> None:
    shard = wanted(tmp_path)[0]
    stored = fetch_shard(shard, tmp_path)
    assert stored_shard(shard, tmp_path) == stored
    stored.path.write_bytes(stored.path.read_bytes()[::-1])
    assert stored_shard(shard, tmp_path) is None
    assert sha256_of(fetch_shard(shard, tmp_path).path) == shard.sha256


@pytest.mark.parametrize("record", ["", "[]", '{"state": 1}', '{"state": [1, 2], "sha256": "x", "counts": {}}'])
def test_a_damaged_record_only_costs_another_look(hub_server: HubServer, tmp_path: Path, record: str) -> None:
    shard = wanted(tmp_path)[0]
    stored = fetch_shard(shard, tmp_path)
    stored.path.with_name(f"{stored.path.name}.json").write_text(record)
    assert stored_shard(shard, tmp_path) is None and fetch_shard(shard, tmp_path) == stored
    assert hub_server.sent[url_path(hub_server, shard)] == shard.size


def test_a_full_disk_ends_in_one_line_and_what_was_stored_is_used_later(
    hub_server: HubServer, tmp_path: Path, run_stage: Callable[..., str | None]
) -> None:
    """The kernel refuses to let any file grow beyond 20,000 bytes: write() fails as it does on a full disk."""
    shards = wanted(tmp_path, 1)
    request = write_request(tmp_path, source="hub", train_shards=1)
    ran = subprocess.run(
        [sys.executable, "-m", "nanochat_core.data.download", str(request)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = one_line(ran.returncode, ran.stderr)
    assert "Cannot store shard_00000.parquet" in said and "File too large" in said and "2 of 2 shards failed" in said
    assert not any(file_of(tmp_path, shard).exists() for shard in shards)
    assert run_stage(train_shards=1) is None
    for shard in shards:
        assert file_of(tmp_path, shard).stat().st_size == shard.size
        assert hub_server.visits[-1].start == 20_000


FETCH_ONE = """
import sys
from pathlib import Path
from nanochat_core.data.remote.hub_shards import fetch_shard, wanted_shards
from nanochat_core.errors import DataError
from nanochat_core.specs import DownloadSpec
base = Path(sys.argv[1])
try:
    fetch_shard(wanted_shards(DownloadSpec(source="hub", train_shards=1), base)[0], base)
except DataError as error:
    print("error:", error, file=sys.stderr)
    raise SystemExit(error.exit_code)
"""


def run_on_small_disk(base: Path, kibibytes: int, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees `base` as a disk of a few KiB; skip the test where one may not mount."""
    base.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kibibytes}k none {base}"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no mount in a namespace of one's own here: the limit on file sizes stands in")
    copy = f'cp -r {base}.ready/. {base} 2>/dev/null; exec "$@"'
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f"{mount} && {copy}", "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_disk_that_runs_full_ends_in_one_line(hub_server: HubServer, tmp_path: Path) -> None:
    ran = run_on_small_disk(tmp_path / "base", 36, [sys.executable, "-c", FETCH_ONE, str(tmp_path / "base")])
    said = one_line(ran.returncode, ran.stderr)
    assert "Cannot store shard_00000.parquet" in said and "No space left on device" in said


def test_a_disk_without_room_is_found_before_anything_is_fetched(hub_server: HubServer, tmp_path: Path) -> None:
    request = write_request(tmp_path / "base.ready", source="hub", train_shards=2)
    request = tmp_path / "base" / request.relative_to(tmp_path / "base.ready")
    ran = run_on_small_disk(tmp_path / "base", 90, [sys.executable, "-m", "nanochat_core.data.download", str(request)])
    assert "The missing shards need 0.1 MB, and" in one_line(ran.returncode, ran.stderr)
    assert set(hub_server.requests) == {LISTING}
