"""Manifests, fingerprints and digests."""

from pathlib import Path

import pytest

from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.errors import ArtifactError


def finished_folder(root: Path, name: str = "a", *, log: str = "") -> Path:
    folder = root / "tokenizer" / name
    folder.mkdir(parents=True)
    request = StageRequest(stage="tokenizer", version=1, fingerprint=name, params={"x": 1})
    (folder / "spec.json").write_text(request.model_dump_json())
    (folder / "out.bin").write_bytes(b"output")
    (folder / "log.txt").write_text(log)
    stage = StageFolder(folder)
    stage.write_result({"loss": 1.0}, ["out.bin"])
    artifacts.finish(stage)
    return folder


def test_the_digest_covers_the_declared_outputs_and_nothing_else(tmp_path: Path) -> None:
    manifests = [artifacts.read_manifest(finished_folder(tmp_path, name, log=name)) for name in ("a", "b")]
    assert manifests[0].digest == manifests[1].digest
    assert manifests[0].created != manifests[1].created


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "out.bin is missing"),
        (lambda path: path.write_bytes(b"out"), "out.bin has 3 bytes, 6 were written"),
        (lambda path: path.write_bytes(b"Output"), "out.bin has other bytes than were written"),
    ],
)
def test_damage_is_found_by_name(tmp_path: Path, damage, problem: str) -> None:
    folder = finished_folder(tmp_path)
    manifest = artifacts.read_manifest(folder)
    assert artifacts.damaged_files(folder, manifest) == []
    damage(folder / "out.bin")
    assert artifacts.damaged_files(folder, manifest) == [problem]


def test_a_folder_without_a_whole_manifest_is_unfinished(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    (folder / "manifest.json").write_text('{"stage": "tok')
    assert artifacts.read_manifest(folder) is None


def test_a_missing_output_has_no_manifest(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    (folder / "manifest.json").unlink()
    (folder / "out.bin").unlink()
    with pytest.raises(ArtifactError, match=r"out\.bin, which does not exist"):
        artifacts.finish(StageFolder(folder))
    assert not (folder / "manifest.json").exists()


def test_everything_that_is_given_changes_the_fingerprint() -> None:
    base = ("pretrain", 1, {"depth": 4}, {"text": "d1"})
    other = [
        ("sft", *base[1:]),
        ("pretrain", 2, *base[2:]),
        (*base[:2], {"depth": 5}, base[3]),
        (*base[:3], {"text": "d2"}),
    ]
    known = artifacts.fingerprint_of(*base)
    assert known == artifacts.fingerprint_of(*base)
    assert known not in [artifacts.fingerprint_of(*arguments) for arguments in other]
