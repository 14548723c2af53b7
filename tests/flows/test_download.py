"""What makes the download stage run again."""

from pathlib import Path

import pytest

from flows.cli import build_spec
from flows.download import DOWNLOAD, TASK_DATA
from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes


def own_text(folder: Path) -> PipelineSpec:
    return build_spec("demo", data="path", data_path=str(folder), changes=[])


def test_own_files_that_have_changed_are_another_text(tmp_path: Path) -> None:
    spec, seen = own_text(tmp_path), []
    for action in (
        lambda: None,
        lambda: (tmp_path / "a.txt").write_text("one"),
        lambda: (tmp_path / "a.txt").write_text("another"),
        lambda: (tmp_path / "b.txt").write_text("more"),
        lambda: (tmp_path / "b.txt").rename(tmp_path / "c.txt"),
    ):
        action()
        params = DOWNLOAD.params(spec)
        assert params.output == DOWNLOAD.params(spec).output
        assert params.full == spec.download.model_dump(mode="json")
        seen.append(params.output["files"])
    assert len(set(seen)) == len(seen)
    (tmp_path / "notes.csv").write_text("not read")
    assert DOWNLOAD.params(spec).output["files"] == seen[-1]


def test_a_folder_that_is_gone_is_left_to_the_stage_to_say(tmp_path: Path) -> None:
    assert DOWNLOAD.params(own_text(tmp_path / "nowhere")).output["files"] is None


def test_a_folder_is_meant_as_seen_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_text(Path("data")).download.path == str(tmp_path / "data")
    assert own_text(Path("~/data")).download.path == str(Path.home() / "data")


def test_text_of_the_hub_depends_on_no_files_here() -> None:
    assert "files" not in DOWNLOAD.params(recipe("demo")).output


def test_own_conversations_that_have_changed_are_another_data_set_and_none_change_nothing(tmp_path: Path) -> None:
    plain = TASK_DATA.params(recipe("demo")).output
    assert "custom" not in plain and "custom_path" not in plain
    path = tmp_path / "own.jsonl"
    spec = with_changes(recipe("demo"), {"task_data.custom_path": str(path)})
    seen = [TASK_DATA.params(spec).output]
    for text in ("[]", "[] "):
        path.write_text(text)
        seen.append(TASK_DATA.params(spec).output)
        assert seen[-1] == TASK_DATA.params(spec).output
    assert len({str(output) for output in seen}) == 3
    assert TASK_DATA.params(spec).full["custom_path"] == str(path)


@pytest.mark.parametrize(("field", "name"), [("persona_path", "persona"), ("documents_path", "documents")])
def test_a_persona_or_documents_that_have_changed_are_other_data_and_none_change_nothing(
    field: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TASK_DATA.params(recipe("demo")).output
    assert name not in plain and field not in plain
    monkeypatch.chdir(tmp_path)
    spec = with_changes(recipe("demo"), {f"task_data.{field}": "own.txt"})
    seen = [TASK_DATA.params(spec).output]
    for text in ("name: Ada", "name: Ida2"):
        (tmp_path / "own.txt").write_text(text)
        seen.append(TASK_DATA.params(spec).output)
        assert seen[-1] == TASK_DATA.params(spec).output
    assert len({str(output) for output in seen}) == 3
    assert TASK_DATA.params(spec).full[field] == str(tmp_path / "own.txt")


def test_own_conversations_are_meant_as_seen_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = with_changes(recipe("demo"), {"task_data.custom_path": "own.jsonl"})
    assert TASK_DATA.params(spec).full["custom_path"] == str(tmp_path / "own.jsonl")
