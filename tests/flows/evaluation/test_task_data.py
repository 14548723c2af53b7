"""Which task data an evaluation reads."""

from pathlib import Path

from flows.evaluation.task_data import data_for, datasets_of
from flows.lineage import outcome_of
from flows.stage import StageOutcome
from nanochat_core.artifacts import StageFolder, finish, write_json
from nanochat_core.specs import TaskDataSpec


def test_what_the_user_brought_along_is_there_beside_the_rest() -> None:
    own = {"persona_path": "a.yaml", "custom_path": "b.jsonl"}
    assert datasets_of(TaskDataSpec(datasets=("gsm8k",))) == ["gsm8k"]
    assert datasets_of(TaskDataSpec(datasets=("gsm8k",), **own)) == ["gsm8k", "custom", "persona"]
    assert datasets_of(TaskDataSpec(source="local", persona_path="a.yaml")) == ["words", "persona"]


def task_data(base: Path, name: str, persona_path: str | None) -> StageOutcome:
    """Write a finished folder of task data."""
    folder = base / "artifacts" / "task_data" / name
    folder.mkdir(parents=True)
    spec = TaskDataSpec(source="local", persona_path=persona_path)
    request = {"stage": "task_data", "version": 1, "fingerprint": name, "params": spec.model_dump(mode="json")}
    write_json(folder / "spec.json", request)
    write_json(folder / "index.json", {"datasets": {}})
    opened = StageFolder(folder)
    opened.write_result({}, ["index.json"])
    finish(opened)
    return outcome_of(folder)


def test_a_model_with_a_persona_is_asked_who_it_is_by_that_one_alone(tmp_path: Path) -> None:
    ada = task_data(tmp_path, "ada", "ada.yaml")
    plain = task_data(tmp_path, "plain", None)
    needed = {"persona", "words"}
    assert data_for(needed, tmp_path, own=[ada]).outcome == ada
    assert data_for(needed, tmp_path, own=[plain]).outcome == plain  # the package's persona will do
    assert data_for(needed, tmp_path, own=[plain, ada]).outcome == ada
    fetched = data_for({"persona", "gsm8k"}, tmp_path, own=[ada])
    assert (fetched.outcome, fetched.spec.datasets, fetched.spec.persona_path) == (None, ("gsm8k",), "ada.yaml")
    assert data_for({"gsm8k"}, tmp_path, own=[ada]).spec.persona_path is None
