"""What a user brings along, from their files to the rows that are learned: one line of a mixture each."""

import importlib
import json
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from nanochat_core.artifacts import StageFolder, write_json
from nanochat_core.data.task_data import work
from tasks_eval.build_conversations import build
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData
from tests.conftest import PROJECT
from tests.fakes import byte_tokenizer

PERSONA = """
name: Ada
maker: the lab
declines: [medical advice]
"""
MIXTURE = [
    {"task": "Identity", "rows": 100, "epochs": 2},
    {"task": "CustomJSON"},
    {"task": "Documents", "weight": 1},
    {"task": "Facts", "weight": 4, "rows": 40},
]


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks as the project's metadata names them, whatever is installed."""
    points = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["nanochat.tasks"]
    metadata = tmp_path / "site" / "own_data-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-data\nVersion: 1\n")
    lines = ["[nanochat.tasks]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()


def write_own_files(folder: Path) -> dict[str, str]:
    """Write a persona, conversations as ShareGPT has them and a folder of notes; return where they are."""
    (folder / "notes").mkdir(parents=True)
    (folder / "ada.yaml").write_text(PERSONA)
    turns = [[{"from": "human", "value": f"Say {n}."}, {"from": "gpt", "value": str(n)}] for n in range(30)]
    (folder / "own.json").write_text(json.dumps([{"conversations": pair} for pair in turns]))
    for n in range(20):
        (folder / "notes" / f"{n}.md").write_text(f"# Note {n}\n\nIt is note {n}.")
    names = {"persona_path": "ada.yaml", "custom_path": "own.json", "documents_path": "notes"}
    return {field: str(folder / name) for field, name in names.items()}


def request(folder: Path, params: dict[str, object], inputs: dict[str, str]) -> StageFolder:
    folder.mkdir(parents=True, exist_ok=True)
    stage = folder.parent.name
    write_json(
        folder / "spec.json",
        {"stage": stage, "version": 1, "fingerprint": "a", "params": params, "inputs": inputs},
    )
    return StageFolder(folder)


@pytest.mark.usefixtures("_installed")
def test_a_persona_conversations_and_documents_are_mixed_in_by_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = tmp_path / "base" / "artifacts"
    work(request(artifacts / "task_data" / "a", {"datasets": [], **write_own_files(tmp_path / "own")}, {}))
    (artifacts / "tokenizer" / "a").mkdir(parents=True)
    byte_tokenizer().save(artifacts / "tokenizer" / "a")
    inputs = {"task_data": "task_data/a", "tokenizer": "tokenizer/a"}
    stage = request(artifacts / "conversations_sft" / "a", {"mixture": MIXTURE, "validation_rows": 20}, inputs)
    build(stage)
    custom = len(make_task("CustomJSON", TaskData.open(artifacts / "task_data" / "a"), "train"))
    details = stage.read_result()["details"]
    assert details["train"]["tasks"] == {"CustomJSON": custom, "Documents": 10, "Facts": 40, "Identity": 200}
    assert set(details["validation"]["tasks"]) == {"CustomJSON", "Documents", "Facts", "Identity"}
    rows = pq.read_table(stage.path / "train.parquet").to_pylist()
    assert all(len(row["ids"]) == len(row["mask"]) and 0 < sum(row["mask"]) < len(row["mask"]) for row in rows)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    write_json(tmp_path / "base" / "newest_run.json", {"folders": {"conversations_sft": "conversations_sft/a"}})
    for source, shown in (
        ("Identity", "<|user_start|>"),
        ("Documents", "⟦# Note "),
        ("CustomJSON", "⟦<|assistant_end|>⟧"),
    ):
        done = CliRunner().invoke(app, ["data", "show", "sft", "--source", source], env={"COLUMNS": "120"})
        assert done.exit_code == 0 and shown in done.output, done.output
