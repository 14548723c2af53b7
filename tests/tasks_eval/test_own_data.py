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
from nanochat_core.data.own.conversation_files import state_of_conversations
from nanochat_core.data.task_data import work
from nanochat_core.errors import DataError, SpecError
from tasks_eval.build_conversations import build
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.custom_json import make_from
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


def write_two_files(folder: Path) -> list[Path]:
    """Write a file of Dolly's format and one of Alpaca's, both of one name, and return them."""
    dolly = [{"instruction": f"Name {n}.", "context": "", "response": f"It is {n}."} for n in range(30)]
    alpaca = [{"instruction": f"Add one to {n}.", "input": "", "output": str(n + 1)} for n in range(20)]
    paths = [folder / "dolly" / "data.jsonl", folder / "alpaca" / "data.jsonl"]
    for path, rows in zip(paths, (dolly, alpaca), strict=True):
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(map(json.dumps, rows)))
    return paths


def stage_of_files(tmp_path: Path, mixture: list[dict[str, object]], paths: list[Path]) -> StageFolder:
    """Return a stage that renders this mixture, as the flow writes its request."""
    artifacts = tmp_path / "base" / "artifacts"
    work(request(artifacts / "task_data" / "a", {"datasets": []}, {}))
    (artifacts / "tokenizer" / "a").mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(artifacts / "tokenizer" / "a")
    states = {str(path): state_of_conversations(path) for path in paths}
    params = {"mixture": mixture, "validation_rows": 4, "own_files": states}
    inputs = {"task_data": "task_data/a", "tokenizer": "tokenizer/a"}
    return request(artifacts / "conversations_dolly" / "a", params, inputs)


@pytest.mark.usefixtures("_installed")
def test_files_of_two_formats_are_mixed_by_a_line_each_and_told_apart(tmp_path: Path) -> None:
    dolly, alpaca = paths = write_two_files(tmp_path / "own")
    items: list[dict[str, object]] = [{"path": str(dolly), "rows": 10, "epochs": 2}, {"path": str(alpaca)}]
    stage = stage_of_files(tmp_path, [*items, {"task": "Facts", "rows": 5}], paths)
    build(stage)
    details = stage.read_result()["details"]
    left = len(make_from(alpaca, "", "train"))
    assert details["train"]["tasks"] == {"Facts": 5, "alpaca/data.jsonl": left, "dolly/data.jsonl": 20}
    assert set(details["validation"]["tasks"]) == {"Facts", "alpaca/data.jsonl", "dolly/data.jsonl"}
    splits = [pq.read_table(stage.path / f"{name}.parquet").to_pylist() for name in ("train", "validation")]
    answers = [{row["messages"] for row in rows if row["source"] == "alpaca/data.jsonl"} for rows in splits]
    assert answers[0] and answers[1] and not answers[0] & answers[1], "what is held out is not learned"
    assert all(json.loads(text)[1]["content"].isdigit() for text in answers[0])


@pytest.mark.usefixtures("_installed")
def test_a_file_that_is_written_while_it_is_read_or_holds_a_bad_line_is_named(tmp_path: Path) -> None:
    paths = write_two_files(tmp_path / "own")
    items: list[dict[str, object]] = [{"path": str(path)} for path in paths]
    stage = stage_of_files(tmp_path, items, paths)
    paths[1].write_text(paths[1].read_text() + "\n" + paths[1].read_text().splitlines()[0])
    with pytest.raises(DataError, match=r"alpaca/data\.jsonl has changed since this run began\. Run it again"):
        build(stage)
    paths[0].write_text(paths[0].read_text() + "\n{")
    with pytest.raises(DataError, match=r"dolly/data\.jsonl:31: not JSON"):
        build(stage)
    paths[0].unlink()
    with pytest.raises(DataError, match=r"There is no file .*dolly/data\.jsonl"):
        build(stage)


@pytest.mark.usefixtures("_installed")
def test_half_a_character_ends_no_stage_and_own_files_are_an_object(tmp_path: Path) -> None:
    (path, _) = paths = write_two_files(tmp_path / "own")
    path.write_text("".join(json.dumps({"instruction": f"{n}", "response": "\ud800"}) + "\n" for n in range(30)))
    ours = [{"role": "user", "content": "\udfff"}, {"role": "assistant", "content": "?"}]
    path.write_text(path.read_text() + json.dumps({"messages": ours}))
    stage = stage_of_files(tmp_path, [{"path": str(path)}], paths[:1])
    build(stage)
    rows = (
        pq.read_table(stage.path / "train.parquet").to_pylist()
        + pq.read_table(stage.path / "validation.parquet").to_pylist()
    )
    assert {json.loads(row["messages"])[1]["content"] for row in rows} == {"?"} and len(rows) == 31
    request = json.loads((stage.path / "spec.json").read_text())
    request["params"]["own_files"] = [str(path)]
    (stage.path / "spec.json").write_text(json.dumps(request))
    with pytest.raises(SpecError, match="own_files: expected an object"):
        build(StageFolder(stage.path))
