import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.artifacts import write_json
from nanochat_core.data import task_data
from nanochat_core.data.shards import TextShards, write_shard
from nanochat_core.data.task_data import copy_words, unpack_bundle, words_of_text
from nanochat_core.errors import DataError
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks import documents, identity
from tests.hub_server import HubServer

ALL = ("smoltalk", "mmlu", "gsm8k", "arc", "humaneval", "core", "words")


def run_stage(base: Path, server: HubServer, **params: Any) -> Path:
    folder = base / "artifacts" / "task_data" / "x"
    folder.mkdir(parents=True)
    urls = {"core_bundle_url": server.core_bundle_url, "words_url": server.words_url}
    request = {"stage": "task_data", "version": 1, "fingerprint": "x", "params": urls | params}
    write_json(folder / "spec.json", request)
    command = [sys.executable, "-m", "nanochat_core.data.task_data", str(folder / "spec.json")]
    environment = os.environ | server.environment(base / "hf")
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return folder


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text())["datasets"]


def check_everything_is_there(folder: Path) -> None:
    index = index_of(folder)
    assert set(index) == set(ALL)
    assert set(index["mmlu"]) == {"test", "validation", "dev", "auxiliary_train"}
    assert index["gsm8k"]["train"] == ["data/gsm8k/main/train-00000-of-00001.parquet"]
    assert "ARC-Challenge/test" in index["arc"]
    named = [name for dataset in ALL[:5] for split in index[dataset].values() for name in split]
    outputs = json.loads((folder / "result.json").read_text())["outputs"]
    assert {*named, "data/eval_bundle/core.yaml", "data/words.txt", "index.json"} <= set(outputs)
    assert all((folder / name).is_file() and not (folder / name).is_symlink() for name in outputs)


def test_every_data_set_is_fetched_and_indexed(hub_server: HubServer, tmp_path: Path) -> None:
    folder = run_stage(tmp_path, hub_server, source="hub", datasets=ALL)
    check_everything_is_there(folder)
    assert (folder / "data/words.txt").read_text().splitlines()[0].isalpha()  # without \r
    assert len(list((tmp_path / "downloads").glob("*.json"))) == 2


def test_the_users_conversations_are_a_data_set_that_the_task_reads(hub_server: HubServer, tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": f"Is it {n}?"}, {"role": "assistant", "content": "Yes."}] for n in range(30)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    folder = run_stage(tmp_path, hub_server, source="hub", datasets=[], custom_path=str(tmp_path / "own.jsonl"))
    assert index_of(folder) == {"custom": {"all": ["data/custom/all.jsonl"]}}
    tasks = [make_task("CustomJSON", TaskData.open(folder), split) for split in ("train", "test")]
    found = [task[index]["messages"] for task in tasks for index in range(len(task))]
    assert sorted(map(str, found)) == sorted(map(str, turns)) and all(map(len, tasks))


def test_the_users_persona_and_documents_are_data_sets_too(hub_server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "ada.yaml").write_text("{name: Ada, maker: the lab}")
    (tmp_path / "notes").mkdir()
    for name in ("a.md", "b.txt"):
        (tmp_path / "notes" / name).write_text(f"Note {name}")
    own = {"persona_path": str(tmp_path / "ada.yaml"), "documents_path": str(tmp_path / "notes")}
    folder = run_stage(tmp_path, hub_server, source="hub", datasets=[], **own)
    assert index_of(folder) == {
        "persona": {"persona": ["data/persona/persona.yaml"]},
        "documents": {"all": ["data/documents/all.parquet"]},
    }
    data = TaskData.open(folder)
    assert len(identity.make(data, "test")) > 20 and len(documents.make(data, "train")) == 1


@pytest.mark.hub
@pytest.mark.slow
def test_every_real_data_set_is_fetched_and_indexed(mirror_server: HubServer, tmp_path: Path) -> None:
    folder = run_stage(tmp_path, mirror_server, source="hub", datasets=ALL)
    check_everything_is_there(folder)
    assert len((folder / "data/words.txt").read_text().splitlines()) > 370_000


def test_words_of_the_text_are_the_frequent_lowercase_ones_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", ["river tree, river; tree don't snake_case UPPER of rivière x1234y"] * 3)
    write_shard(tmp_path / "b.parquet", ["only held out " * 9])
    words_of_text(TextShards([tmp_path / "a.parquet"], tmp_path / "b.parquet"), tmp_path)
    assert (tmp_path / "data/words.txt").read_text() == "river\ntree\n"


def test_a_word_list_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<html>404</html>\n")
    with pytest.raises(DataError, match="holds no lowercase words"):
        copy_words(tmp_path / "words.txt", tmp_path)


def bundle_with(path: Path, name: str, *, is_link: bool = False) -> Path:
    with zipfile.ZipFile(path / "bundle.zip", "w") as archive:
        archive.writestr("eval_bundle/core.yaml", "icl_tasks: []")
        member = zipfile.ZipInfo(name)
        member.external_attr = (stat.S_IFLNK if is_link else stat.S_IFREG) << 16
        archive.writestr(member, "/etc/passwd")
    return path / "bundle.zip"


@pytest.mark.parametrize("name", ["eval_bundle/../../outside.txt", "/outside.txt", "eval_bundle\\..\\outside.txt"])
def test_a_zip_that_reaches_outside_its_folder_is_refused_whole(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="would leave its folder"):
        unpack_bundle(bundle_with(tmp_path, name), tmp_path / "folder")
    assert not list(tmp_path.rglob("outside.txt")) and not (tmp_path / "folder/data/eval_bundle").exists()


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="would leave its folder"):
        unpack_bundle(bundle_with(tmp_path, "eval_bundle/link", is_link=True), tmp_path / "folder")


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_data, "MAX_BUNDLE_BYTES", 20)
    with pytest.raises(DataError, match="more than 20"):
        unpack_bundle(bundle_with(tmp_path, "eval_bundle/a.jsonl"), tmp_path / "folder")


def test_a_zip_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = bundle_with(tmp_path, "eval_bundle/a.jsonl")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="no whole zip file"):
        unpack_bundle(path, tmp_path / "folder")


def test_files_beside_the_bundle_are_left_in_the_zip(tmp_path: Path) -> None:
    unpack_bundle(bundle_with(tmp_path, "__MACOSX/eval_bundle/._core.yaml"), tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder/data").rglob("*")] == ["eval_bundle", "core.yaml"]
