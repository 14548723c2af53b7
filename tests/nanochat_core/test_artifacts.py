"""Manifests, fingerprints and digests."""

import errno
import json
import os
from pathlib import Path

import pytest

from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.errors import ArtifactError, DataError, Preempted


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


def test_a_request_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    for text, problem in (("{", "Cannot read"), ('{"stage": "sft"}', "is no request of a stage (see version, ")):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(ArtifactError) as error:
            StageFolder(tmp_path)
        assert "spec.json" in str(error.value) and problem in str(error.value)


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished_folder(tmp_path)
    (folder / "manifest.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        artifacts.finish(StageFolder(folder))
    assert artifacts.read_manifest(folder) is None
    assert not list(folder.glob("*manifest*"))
    assert artifacts.finish(StageFolder(folder)) == artifacts.read_manifest(folder)


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def leave(folder: Path, error: Exception, *, is_main: bool = True) -> int:
    """Let a stage's work end with `error`; return the exit code."""
    with pytest.raises(SystemExit) as stopped, artifacts.reported_exit(folder, is_main=is_main):
        raise error
    return int(str(stopped.value.code))


def exit_word(folder: Path) -> dict[str, object]:
    return json.loads((folder / "exit.json").read_text())


def test_the_last_word_is_one_line_in_a_file_and_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(tmp_path, DataError("text.txt is empty.\nAdd text.")) == 2
    assert exit_word(tmp_path) == {"code": 2, "message": "text.txt is empty. Add text."}
    assert capsys.readouterr().err == "error: text.txt is empty. Add text.\n"
    assert leave(tmp_path, Preempted("Stopped.")) == 75
    assert exit_word(tmp_path)["code"] == 75


def test_another_rank_does_not_overwrite_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"code": 75}')
    assert leave(tmp_path, DataError("late"), is_main=False) == 2
    assert exit_word(tmp_path) == {"code": 75}


def test_a_crash_leaves_its_traceback_and_no_word_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"code": 75}')
    with pytest.raises(ZeroDivisionError), artifacts.reported_exit(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "exit.json").exists()


@pytest.mark.parametrize("error", [DataError("No room."), OSError(errno.ENOSPC, "No space left on device")])
def test_a_disk_without_room_for_the_last_word_still_ends_in_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert leave(tmp_path, error) == 2
    assert list(tmp_path.iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
