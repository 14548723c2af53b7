"""The work on single shards as tasks: what is begun, when, what a bad shard costs, and when nothing is begun at all."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run

from flows import shard_runners
from flows.download import DOWNLOAD, tokenizer_text
from flows.pipeline_run import make_stages
from flows.pretrain import PRETRAIN
from flows.shard_tasks import ShardTasks
from flows.train_tokenizer import TOKENIZER
from nanochat_core.data import token_shards
from nanochat_core.data.remote import hub_shards
from nanochat_core.data.remote.hub_shards import StoredShard, WantedShard
from nanochat_core.data.shards import TextCounts
from nanochat_core.errors import DataError, NanochatError, Unreachable
from nanochat_core.recipes import derive, recipe
from nanochat_core.specs import DownloadSpec, PipelineSpec, with_changes
from tests.flows.conftest import FakeStages

FETCH = ShardTasks.fetch  # that of the fake stages does nothing
PATIENCE_SECONDS = 20.0


def spec_of(train_shards: int, **changes: Any) -> PipelineSpec:
    """A pipeline on the Hub's text whose tokenizer needs one shard."""
    own = {"download.train_shards": train_shards, "launch.retries": 2, "launch.retry_seconds": 0}
    return with_changes(recipe("demo", data="hub"), own | changes)


@flow
def make_text(spec: PipelineSpec) -> None:
    """Make what pretraining reads."""
    make_stages(spec, [TOKENIZER, DOWNLOAD])


class FakeHub:
    """A data set, and the store that its shards come into."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored: dict[str, StoredShard] = {}
        self.begun: list[str] = []
        self.before_fetch: Callable[[str], None] = lambda name: None
        self._base = base
        monkeypatch.setattr(ShardTasks, "fetch", FETCH)
        for name in ("wanted_shards", "stored_shard", "fetch_shard"):
            monkeypatch.setattr(hub_shards, name, getattr(self, name))

    def wanted_shards(self, spec: DownloadSpec, base: Path) -> list[WantedShard]:
        names = [f"shard_{index:05d}.parquet" for index in range(spec.train_shards or 0)]
        return [
            WantedShard("karpathy/text", "c" * 40, name, 1, name, is_validation=name == "last.parquet")
            for name in [*names, "last.parquet"]
        ]

    def stored_shard(self, shard: WantedShard, base: Path) -> StoredShard | None:
        return self.stored.get(shard.name)

    def fetch_shard(self, shard: WantedShard, base: Path) -> StoredShard:
        self.begun.append(shard.name)
        self.before_fetch(shard.name)
        self.stored[shard.name] = StoredShard(base / shard.name, f"hash of {shard.name}", TextCounts(1, 1, 0))
        return self.stored[shard.name]


@pytest.fixture
def hub(fake_stages: FakeStages, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub(fake_stages.base, monkeypatch)


def shard_name(index: int) -> str:
    return f"shard_{index:05d}.parquet"


def test_the_tokenizer_waits_for_its_first_shards_and_trains_while_the_rest_come(
    hub: FakeHub, fake_stages: FakeStages
) -> None:
    log = fake_stages.base / "fake.log"

    def until_the_tokenizer_trains(name: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while name not in (shard_name(0), "last.parquet") and "tokenizer" not in log.read_text().split():
            assert time.monotonic() < deadline, "the tokenizer waits for a shard that it does not need"
            time.sleep(0.01)

    log.touch()
    hub.before_fetch = until_the_tokenizer_trains
    make_text(spec_of(3, **{"download.num_workers": 1}))
    assert fake_stages.ran() == ["download_first", "tokenizer", "download"]
    assert hub.begun == ["last.parquet", *map(shard_name, range(3))]  # what the tokenizer waits for comes first


@pytest.mark.slow
def test_a_larger_text_does_not_train_the_tokenizer_again(hub: FakeHub, fake_stages: FakeStages) -> None:
    make_text(spec_of(3))
    fake_stages.ran()
    hub.begun.clear()
    make_text(spec_of(5, **{"pretrain.model.depth": 6}))
    assert fake_stages.ran() == ["download"]
    assert sorted(hub.begun) == [shard_name(3), shard_name(4)]
    make_text(spec_of(1))  # one stage of the same shard: what it makes has the same bytes
    assert fake_stages.ran() == ["download"]


def test_one_stage_serves_both_where_the_tokenizer_needs_all_the_text() -> None:
    assert tokenizer_text(derive(spec_of(1))) is DOWNLOAD
    assert tokenizer_text(derive(spec_of(2))) is not DOWNLOAD
    assert tokenizer_text(derive(spec_of(2, **{"tokenizer.max_characters": 500_000_000}))) is DOWNLOAD
    assert tokenizer_text(derive(recipe("demo"))) is DOWNLOAD
    assert (
        tokenizer_text(derive(recipe("classic_d20"))).params(derive(recipe("classic_d20"))).output["train_shards"] == 9
    )


def task_runs(flow_run_id: str) -> dict[str, tuple[str, int]]:
    """Return {name: (state, attempts)} of the shards' tasks."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))  # type: ignore[list-item]
    return {run.name: (run.state_name or "", run.run_count) for run in runs if "parquet" in run.name}


def test_a_bad_shard_is_a_task_that_fails_alone_and_a_silent_hub_is_asked_again(
    hub: FakeHub, fake_stages: FakeStages, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = {shard_name(1): [DataError("shard 1 is\nbad")] * 9, shard_name(2): [Unreachable("no answer")] * 2}
    ids: list[str] = []

    def trouble(name: str) -> None:
        ids.append(str(flow_run.id))
        if left := troubles.get(name):
            raise left.pop()

    hub.before_fetch = trouble
    make_text(spec_of(4))
    assert fake_stages.ran() == ["download_first", "tokenizer", "download"]  # that stage tries it too
    assert hub.begun.count(shard_name(1)) == 1
    assert hub.begun.count(shard_name(2)) == 3
    assert sorted(hub.stored) == ["last.parquet", *(shard_name(index) for index in (0, 2, 3))]
    assert "fetch_shard: shard_00001.parquet failed: shard 1 is bad\n" in capsys.readouterr().out
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found := task_runs(ids[0])) < 5 or any(state == "Running" for state, _ in found.values()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert {name: state for name, (state, _) in found.items()} == {
        f"fetch {shard_name(1)}": "Failed",
        **{f"fetch {name}": "Completed" for name in ("last.parquet", *(shard_name(index) for index in (0, 2, 3)))},
    }
    assert found[f"fetch {shard_name(2)}"][1] == 3


def test_nothing_is_begun_where_the_stages_are_done_or_the_store_has_it_all(
    hub: FakeHub, fake_stages: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_text(spec_of(3))
    hub.begun.clear()
    monkeypatch.setattr(shard_runners, "make_runner", None)  # nothing may be opened any more
    make_text(spec_of(3, force=["download"]))
    monkeypatch.setattr(hub_shards, "wanted_shards", None)  # nor asked for
    make_text(spec_of(3))
    assert hub.begun == []


class Tokens:
    """A real text and tokenizer as two finished stages leave them, and what is tokenised of it."""

    def __init__(self, folder: Path) -> None:
        from nanochat_core.artifacts import sha256_of, write_json
        from nanochat_core.data.shards import write_shard
        from nanochat_core.tokenizer.bpe import Tokenizer

        self.base, self.text, self.tokenizer = folder / "base", folder / "text", folder / "tokenizer"
        (self.text / "shards").mkdir(parents=True)
        self.tokenizer.mkdir()
        self.names = [f"shards/{name}.parquet" for name in ("a", "b", "last")]
        for name in self.names:
            write_shard(self.text / name, [f"{name} holds a few words {number}." for number in range(40)])
        self.sha256 = {name: sha256_of(self.text / name) for name in self.names}
        index = {"train": self.names[:2], "validation": self.names[2], "sha256": self.sha256}
        write_json(self.text / "index.json", index)
        trained = Tokenizer.train([f"{name} holds a few words" for name in self.names], 270)
        trained.save(self.tokenizer)
        self.hash = trained.hash

    @property
    def made(self) -> set[str]:
        """The shards whose tokens are in the cache."""
        cache = self.base / "tokens"
        return {
            name
            for name, sha256 in self.sha256.items()
            if token_shards.is_whole(token_shards.token_shard_path(sha256, self.hash, cache))
        }


@pytest.fixture
def tokens(tmp_path: Path, prefect_server: str) -> Tokens:
    return Tokens(tmp_path)


def test_the_training_shards_are_tokenised_once(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = ShardTasks(recipe("demo"), tokens.base)
    begun = tasks.tokenise(tokens.tokenizer, tokens.text)
    tasks.wait(begun, "pretrain")
    assert len(begun) == 2 and tokens.made == set(tokens.names[:2])
    monkeypatch.setattr(shard_runners, "make_runner", None)
    assert ShardTasks(recipe("demo"), tokens.base).tokenise(tokens.tokenizer, tokens.text) == []


def test_what_comes_into_the_store_is_tokenised_while_the_rest_is_under_way(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(tokens.base, monkeypatch)
    wanted = hub.wanted_shards(spec_of(2).download, tokens.base)

    def store(shard: WantedShard, base: Path) -> StoredShard:
        name = tokens.names[wanted.index(shard)]
        return StoredShard(tokens.text / name, tokens.sha256[name], TextCounts(40, 400, 0))

    def fetch(shard: WantedShard, base: Path) -> StoredShard:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while shard.name == shard_name(1) and tokens.names[0] not in tokens.made:
            assert time.monotonic() < deadline, "the shard before it is not tokenised"
            time.sleep(0.01)
        return store(shard, base)

    monkeypatch.setattr(hub_shards, "fetch_shard", fetch)
    tasks = ShardTasks(spec_of(2), tokens.base)
    fetches = tasks.fetch(spec_of(2).download)
    assert tasks.tokenise(tokens.tokenizer, None) == []  # nothing has come yet
    tasks.wait(fetches, "download")
    tasks.wait(tasks.tokenise(tokens.tokenizer, tokens.text), "pretrain")
    assert tokens.made == set(tokens.names[:2])


def test_text_that_is_encoded_on_the_fly_is_not_tokenised_before(tokens: Tokens) -> None:
    assert PRETRAIN.shard_tasks is not None
    spec = with_changes(recipe("demo"), {"pretrain.runtime.tokens": "on_the_fly"})
    folders = {"tokenizer": tokens.tokenizer, "text": tokens.text}
    assert PRETRAIN.shard_tasks(ShardTasks(spec, tokens.base), spec, folders) == []


def test_a_corrupt_shard_or_a_missing_text_is_left_to_the_stage(
    tokens: Tokens, capsys: pytest.CaptureFixture[str]
) -> None:
    (tokens.text / tokens.names[1]).write_bytes(b"PAR1 and no more")
    tasks = ShardTasks(recipe("demo"), tokens.base)

    @flow
    def tokenise_all() -> None:
        tasks.wait(tasks.tokenise(tokens.tokenizer, tokens.text), "pretrain")

    tokenise_all()
    assert tokens.made == {tokens.names[0]}
    failures = [line for line in capsys.readouterr().out.splitlines() if "failed" in line]
    assert len(failures) == 1 and failures[0].startswith("tokenise_shard: b.parquet failed: ")
    assert tasks.tokenise(tokens.tokenizer, tokens.base) == []
    assert tasks.tokenise(tokens.base, tokens.text) == []


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line(tokens: Tokens) -> None:
    import dask

    spec = with_changes(recipe("demo"), {"launch.shard_tasks": "dask", "launch.dask_address": "tcp://127.0.0.1:9"})
    tasks = ShardTasks(spec, tokens.base)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(NanochatError, match=r"^launch.shard_tasks: 'dask' does not work here \(.*tcp://127.0.0.1:9"),
    ):
        tasks.tokenise(tokens.tokenizer, tokens.text)
    tasks.close(is_abandoned=True)


def test_a_run_that_fails_leaves_no_runner_open(hub: FakeHub, fake_stages: FakeStages) -> None:
    hub.before_fetch = lambda name: time.sleep(0 if name in (shard_name(0), "last.parquet") else 60)
    fake_stages.fail("tokenizer", "input")
    started = time.monotonic()
    with pytest.raises(Exception, match="shard 3 is corrupt"):
        make_text(spec_of(3))
    assert time.monotonic() - started < PATIENCE_SECONDS
