"""What `nanochat gc` keeps, prunes and removes."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import gc, gc_usage, locks, run_lock
from flows.cli import app
from flows.gc import DAY, Artifact, Rules, collect, survey
from flows.gc_caches import survey_caches, sweep
from flows.pipeline import pipeline
from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder
from nanochat_core.data.token_shards import token_shard_path
from nanochat_core.errors import NanochatError
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.conftest import FakeStages
from tests.flows.tiny import tiny

BIG = 2 << 20
OLD = Rules(keep_runs=1, keep_days=7)


class Store:
    """A base folder that artifacts and reports of any age can be put into."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def make(
        self,
        stage: str,
        number: int,
        *,
        days: float = 30,
        inputs: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        is_finished: bool = True,
    ) -> str:
        """Make a stage's folder with a checkpoint of 2 MiB, and a small file beside it; return its name."""
        name = f"{stage}/{number:016x}"
        folder = self.base / "artifacts" / name
        step = folder / "checkpoints" / "step_00000004"
        step.mkdir(parents=True)
        request = {"stage": stage, "version": 1, "fingerprint": f"{number:016x}" + 48 * "0", "params": {}}
        artifacts.write_json(
            folder / "spec.json",
            request | {"inputs": dict(zip(names or map(str, range(len(inputs))), inputs, strict=True))},
        )
        (step / "model.safetensors").write_bytes(bytes(BIG))
        (step / "optimizer.safetensors").write_bytes(bytes(BIG))
        (folder / "scores.json").write_text("{}")
        moment = time.time() - days * DAY
        if is_finished:
            opened = StageFolder(folder)
            opened.write_result({}, ["scores.json", "checkpoints/step_00000004/model.safetensors"])
            manifest = artifacts.finish(opened)
            artifacts.write_json(folder / "manifest.json", manifest.model_copy(update={"created": moment}).model_dump())
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (moment, moment))
        return name

    def report(self, run: str, *folders: str, recipe: str = "demo", days: float = 30) -> None:
        path = self.base / "reports" / run / "report.json"
        path.parent.mkdir(parents=True)
        stages = {name.split("/")[0]: {"folder": name} for name in folders}
        artifacts.write_json(path, {"run": {"name": run, "recipe": recipe}, "stages": stages})
        os.utime(path, (time.time() - days * DAY,) * 2)

    def survey(self, rules: Rules = OLD) -> dict[str, Artifact]:
        return {gc_usage.name_of(artifact.folder): artifact for artifact in survey(self.base, rules)}

    def actions(self, rules: Rules = OLD) -> dict[str, str]:
        return {name: artifact.action for name, artifact in self.survey(rules).items()}


@pytest.fixture
def store(base: Path) -> Store:
    return Store(base)


def test_old_work_of_no_kept_run_goes_and_the_newest_run_of_each_recipe_stays(store: Store) -> None:
    text = store.make("download", 1)
    old, new = (store.make("pretrain", number, inputs=(text,)) for number in (2, 3))
    other = store.make("pretrain", 4)
    broken, nobodys = store.make("sft", 5, is_finished=False), store.make("sft", 6)
    store.report("first", old, days=40)
    store.report("second", new, days=20)
    store.report("other", other, recipe="classic_d20", days=90)
    assert store.actions() == {
        text: "keep",  # the second run was made from it
        old: "prune",
        new: "keep",
        other: "keep",
        broken: "remove",
        nobodys: "prune",
    }
    assert (store.survey()[old].runs, store.survey()[text].runs) == (["first"], ["second", "first"])
    assert store.actions(Rules(keep_runs=2, keep_days=7))[old] == "keep"
    assert store.actions(Rules(keep_runs=0, keep_days=0))[new] == "prune"


def test_what_is_young_stays(store: Store) -> None:
    young, unfinished = store.make("sft", 1, days=3), store.make("sft", 2, days=3, is_finished=False)
    reported = store.make("sft", 3)
    store.report("newer", store.make("rl", 4), days=1)
    store.report("recent", reported, days=2)
    found = store.survey()
    assert {found[name].action for name in (young, unfinished, reported)} == {"keep"}
    assert found[reported].why == "report younger than 7 days"
    assert {store.actions(Rules(1, 1))[name] for name in (young, reported)} == {"prune"}


def test_the_newest_run_and_every_run_of_a_sweep_stay(store: Store) -> None:
    newest, member = store.make("pretrain", 1), store.make("pretrain", 2)
    artifacts.write_json(store.base / "newest_run.json", {"run_name": "x", "folders": {"pretrain": newest}})
    path = store.base / "reports" / "sweeps" / "laws" / "report.json"
    path.parent.mkdir(parents=True)
    sweep = {"sweep": {"name": "laws", "base": {"recipe": "demo"}}, "members": [{"folder": member}]}
    artifacts.write_json(path, sweep)
    (path.parent.parent / "latest").symlink_to("laws", target_is_directory=True)
    found = store.survey()
    assert (found[newest].why, found[member].why) == ("newest run", "newest 1 of demo")
    assert found[member].runs == ["laws"]


def test_what_a_running_stage_holds_or_reads_stays_and_is_not_deleted(store: Store) -> None:
    text = store.make("download", 1)
    work = store.make("pretrain", 2, inputs=(text,), is_finished=False)
    with locks.hold(store.base / "artifacts" / work / ".lock", on_wait=print):
        assert store.actions() == {text: "keep", work: "keep"}
    found = list(store.survey().values())
    assert {artifact.action for artifact in found} == {"prune", "remove"}
    with locks.hold(store.base / "artifacts" / work / ".lock", on_wait=print):
        problems = {artifact.stage: problem for artifact, problem in collect(store.base, found)}
    assert problems == {"pretrain": "in use by now", "download": None}


def test_nothing_is_deleted_while_a_run_is_alive_here(store: Store) -> None:
    store.make("sft", 1)
    with run_lock.alive(store.base, "0"), pytest.raises(NanochatError, match="1 run is alive on this node"):
        list(collect(store.base, list(store.survey().values())))
    assert store.actions() == {f"sft/{1:016x}": "prune"}


def test_pruning_frees_the_checkpoints_and_leaves_a_stage_that_is_done(store: Store) -> None:
    folder = store.base / "artifacts" / store.make("sft", 1)
    before = artifacts.read_manifest(folder)
    (artifact,) = store.survey().values()
    assert (artifact.action, artifact.freed) == ("prune", 2 * BIG)
    assert [problem for _, problem in collect(store.base, [artifact])] == [None]
    after = artifacts.read_manifest(folder)
    assert before and after and after.digest == before.digest
    assert {record.path: record.pruned for record in after.files} == {
        "checkpoints/step_00000004/model.safetensors": True,
        "scores.json": False,
    }
    assert artifacts.damaged_files(folder, after) == []
    assert not (folder / "checkpoints").exists()
    (again,) = store.survey().values()
    assert (again.action, again.why) == ("keep", "pruned")


def test_a_pruning_that_was_interrupted_is_finished_the_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.base / "artifacts" / store.make("sft", 1)
    found = list(store.survey().values())
    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            list(collect(store.base, found))
    manifest = artifacts.read_manifest(folder)
    assert manifest and manifest.is_pruned and artifacts.damaged_files(folder, manifest) == []
    (left,) = store.survey().values()
    assert (left.action, left.freed) == ("prune", 2 * BIG)
    assert [problem for _, problem in collect(store.base, [left])] == [None]
    assert not (folder / "checkpoints").exists()


def test_a_model_with_an_alias_stays_and_without_mlflow_every_model_does(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, other, text = store.make("sft", 1), store.make("sft", 2), store.make("download", 3)
    monkeypatch.setattr(gc_usage, "registered", lambda base: ({named: ["nanochat-demo-sft@champion"]}, None))
    assert store.actions() == {named: "keep", other: "prune", text: "prune"}
    assert store.survey()[named].models == ["nanochat-demo-sft@champion"]
    monkeypatch.setattr(gc_usage, "registered", lambda base: ({}, "no answer"))
    assert store.actions() == {named: "keep", other: "keep", text: "prune"}
    assert store.survey()[other].why == "MLflow could not be asked"


def test_the_registry_that_does_not_answer_is_a_reason_and_no_traceback(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gc_usage.registered(base) == ({}, None)  # no database yet: it is not made for that
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    models, trouble = gc_usage.registered(base)
    assert models == {} and trouble


def nanochat_gc(*arguments: str) -> str:
    return CliRunner().invoke(app, ["gc", *arguments], env={"COLUMNS": "200"}).stdout


def test_the_command_only_shows_until_it_is_told_to_delete(store: Store) -> None:
    folder = store.base / "artifacts" / store.make("sft", 1)
    shown = nanochat_gc()
    assert "prune: no kept run needs it, frees 4.0 MiB" in shown
    assert "1 artifact, 4.0 MiB; 4.0 MiB can go." in shown
    assert "Nothing was touched" in shown and (folder / "checkpoints").exists()
    assert "Freed 4.0 MiB." in nanochat_gc("--delete") and not (folder / "checkpoints").exists()
    shutil.rmtree(store.base / "artifacts")
    assert "0 artifacts, 0 B; 0 B can go." in nanochat_gc("--delete")


def test_a_real_run_is_kept_and_named(finished: FakeStages, short_spec: PipelineSpec) -> None:
    pipeline(with_changes(short_spec, {"run_name": "mine"}))
    found = survey(finished.base, Rules(keep_runs=1, keep_days=0))
    assert {artifact.stage for artifact in found} >= {"download", "pretrain", "sft", "evaluate_sft"}
    assert {artifact.action for artifact in found} == {"keep"}
    assert all("mine" in artifact.runs for artifact in found)
    assert json.loads((finished.base / "newest_run.json").read_text())["run_name"] == "mine"
    assert gc.measure(found[0].folder)[0] == found[0].size > 0


def test_cached_tokens_stay_while_a_kept_pretraining_reads_them(store: Store) -> None:
    text, tokenizer = store.make("download", 1), store.make("tokenizer", 2)
    folder, tokens = store.base / "artifacts" / text, store.base / "tokens"
    (folder / "shards").mkdir()
    names = ["shards/a.parquet", "shards/last.parquet"]
    for name in names:
        (folder / name).touch()
    index = {"train": names[:1], "validation": names[1], "sha256": {name: name[7:].ljust(64) for name in names}}
    artifacts.write_json(folder / "index.json", index)
    (store.base / "artifacts" / tokenizer / "tokenizer.json").write_text("{}")
    tokenizer_hash = artifacts.sha256_of(store.base / "artifacts" / tokenizer / "tokenizer.json")
    needed = token_shard_path("a.parquet".ljust(64), tokenizer_hash, tokens)
    other, young = needed.with_name("other.safetensors"), needed.with_name("young.safetensors")
    needed.parent.mkdir(parents=True)
    for path, days in ((needed, 30), (other, 30), (young, 3)):
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - days * DAY,) * 2)
    model = store.make("pretrain", 3, inputs=(text, tokenizer), names=("text", "tokenizer"))
    store.report("mine", model)
    (cache,) = survey_caches(store.base, list(store.survey().values()), OLD)
    assert (cache.unneeded, cache.size, cache.freed) == ((other,), 300, 100)
    assert "300 B; 100 B that no kept run needs can go." in nanochat_gc("--keep-runs=1")
    assert "Freed 100 B." in nanochat_gc("--keep-runs=1", "--delete")
    assert needed.exists() and young.exists() and not other.exists()
    shutil.rmtree(store.base / "reports")
    nanochat_gc("--delete", "--keep-days=2")  # now nobody needs them, and none is young
    assert not needed.exists() and not young.exists()


def test_files_of_the_hub_stay_while_an_artifact_has_them(store: Store) -> None:
    text = store.base / "artifacts" / store.make("download", 1)
    folder = store.base / "hub" / "karpathy--text"
    (folder / "listings").mkdir(parents=True)
    names = ("ab-used.parquet", "ab-used.parquet.json", "cd-old.parquet", "cd-old.parquet.json", ".cd-old.parquet.lock")
    for name in (*names, ".ef-begun.parquet.part"):
        (folder / name).write_bytes(bytes(BIG))
        os.utime(folder / name, (time.time() - 30 * DAY,) * 2)
    os.link(folder / "ab-used.parquet", text / "used.parquet")
    (cache,) = survey_caches(store.base, [], OLD)
    unneeded = {*names[2:], ".ef-begun.parquet.part"}
    assert {path.name for path in cache.unneeded} == unneeded
    sweep(cache)
    assert {path.name for path in folder.iterdir()} == {*names[:2], "listings"}
    (text / "used.parquet").unlink()
    (cache,) = survey_caches(store.base, [], OLD)
    assert {path.name for path in cache.unneeded} == set(names[:2])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_weights_that_were_pruned_come_back_bit_for_bit(
    base: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = with_changes(tiny(), {"midtrain": None, "rl": None})
    first = {outcome.stage: outcome for outcome in pipeline(spec).outcomes}
    monkeypatch.setattr(gc, "SMALL_BYTES", 0)
    monkeypatch.setattr(run_lock, "living", lambda base: {})
    found = survey(base, Rules(keep_runs=0, keep_days=0))
    monkeypatch.setattr(gc_usage, "newest_run", lambda base: frozenset())
    monkeypatch.setattr(gc_usage, "registered", lambda base: ({}, None))
    assert {artifact.action for artifact in found} == {"keep"}
    pruned = {artifact.stage for artifact, _ in collect(base, survey(base, Rules(keep_runs=0, keep_days=0)))}
    assert pruned >= {"download", "pretrain", "sft", "conversations_sft"}
    assert {outcome.state for outcome in pipeline(spec).outcomes} == {"Cached"}
    changed = {outcome.stage: outcome for outcome in pipeline(with_changes(spec, {"sft.seed": 8})).outcomes}
    rebuilt = {stage for stage, outcome in changed.items() if not outcome.is_cached}
    again = {"download", "task_data", "pretrain", "conversations_sft"}
    assert rebuilt == {*again, "sft", "evaluate_sft"}
    for stage in again:
        assert changed[stage].digest == first[stage].digest, stage
