"""Models in MLflow's registry: by reference, once for each content, with aliases that mean something."""

import shutil
from pathlib import Path

import pytest

from flows import registry
from flows.registry import find_registered
from flows.tracking_store import Store
from nanochat_core.errors import ArtifactError, NanochatError, SpecError
from tests.flows import tracked


@pytest.fixture(autouse=True)
def store(mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    return Store(Path("unused"))


def train(base: Path, recipe: str, fingerprint: str, bpb: float) -> Path:
    """Train a fake base model in a pipeline run of its own; return its folder."""
    tracker = tracked.tracker(base, fingerprint, owner=f"{recipe}-{fingerprint}")
    tracker.shared_tags["recipe"] = recipe
    tracker.start()
    track = tracked.begin(tracker, folder := tracked.stage_folder(base, fingerprint=fingerprint * 16))
    track.finish(tracked.finish(folder, val_bpb_last=bpb))
    tracker.finish("FINISHED")
    assert tracker.trouble is None
    return folder


def test_aliases_point_at_the_newest_and_at_the_best_and_the_bytes_stay_where_they_are(
    base: Path, store: Store
) -> None:
    best, newest = (train(base, "ranked", name, bpb) for name, bpb in (("aaaa", 1.5), ("bbbb", 1.75)))
    assert find_registered("models:/nanochat-ranked-pretrain@best", base) == best
    assert find_registered("models:/nanochat-ranked-pretrain@newest", base) == newest
    assert find_registered("models:/nanochat-ranked-pretrain/1", base) == best
    assert set(store.client.get_registered_model("nanochat-ranked-pretrain").aliases) == {"newest", "best"}
    version = store.client.get_model_version("nanochat-ranked-pretrain", "2")
    assert version.tags["digest"] and version.tags["val_bpb_last"] == "1.75"
    files = store.client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
    assert "output.bin" not in {path.name for path in Path(files.removeprefix("file://")).rglob("*")}


def test_the_same_content_is_one_version(base: Path, store: Store) -> None:
    folder = train(base, "once", "cccc", 1.5)
    (folder / "mlflow.json").unlink()
    train(base, "once", "dddd", 1.5)  # other parameters, equal bytes
    versions = store.client.search_model_versions("name = 'nanochat-once-pretrain'")
    assert [version.version for version in versions] == [1]


def test_a_name_alias_or_version_that_is_not_there_is_refused_in_one_line(base: Path) -> None:
    folder = train(base, "known", "eeee", 1.5)
    for reference, text in {
        "models:/nanochat-know-pretrain@newest": "did you mean 'nanochat-known-pretrain'",
        "models:/nanochat-known-pretrain@newst": "did you mean 'newest'",
        "models:/nanochat-known-pretrain/9": "it has: 1",
        "models:/": "write models:/NAME@alias",
        "models:/x@": "write models:/NAME@alias",
    }.items():
        with pytest.raises(SpecError, match=text):
            find_registered(reference, base)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match="is gone or holds something else"):
        find_registered("models:/nanochat-known-pretrain@newest", base)


def test_an_artifact_that_was_moved_with_its_base_folder_is_found(base: Path, tmp_path: Path) -> None:
    folder = train(base, "moved", "ffff", 1.5)
    shutil.move(base, tmp_path / "elsewhere")
    found = find_registered("models:/nanochat-moved-pretrain@newest", tmp_path / "elsewhere")
    assert found == tmp_path / "elsewhere" / folder.relative_to(base)


def test_a_store_that_does_not_answer_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(NanochatError, match=r"MLflow at http://127.0.0.1:9 does not answer") as caught:
        find_registered("models:/nanochat-demo-sft@champion", base)
    assert "secret" not in str(caught.value)


def test_a_higher_reward_and_a_lower_loss_are_better() -> None:
    stages = ("pretrain", "midtrain", "sft", "finetune_dolly", "dpo", "rl")
    assert {stage: registry.headline_of(stage)[1] for stage in stages} == {
        "pretrain": False,
        "midtrain": False,
        "sft": False,
        "finetune_dolly": False,
        "dpo": True,
        "rl": True,
    }
    assert all(registry.headline_of(stage)[0] for stage in stages)
