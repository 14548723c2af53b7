import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core import artifacts
from nanochat_core.data.download import work
from nanochat_core.data.own.own_text import OwnTextCounts, write_text_shards
from nanochat_core.data.shards import TextShards, check_parquet, documents
from nanochat_core.errors import DataError
from tests.hub_miniature import write_miniature
from tests.hub_server import HubServer

SECRET = "hf_aSecretThatMustNeverBeShown"


def write_request(base: Path, **params: Any) -> Path:
    """Write the spec.json of a download into base/artifacts/download/x; return it."""
    folder = base / "artifacts" / "download" / "x"
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(
        folder / "spec.json", {"stage": "download", "version": 1, "fingerprint": "x", "params": params}
    )
    return folder / "spec.json"


def run_stage(base: Path, environment: dict[str, str] | None = None, **params: Any) -> subprocess.CompletedProcess[str]:
    """Run the download stage as its flow does."""
    command = [sys.executable, "-m", "nanochat_core.data.download", str(write_request(base, **params))]
    return subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=120)


def result_of(base: Path) -> dict[str, Any]:
    return json.loads((base / "artifacts" / "download" / "x" / "result.json").read_text())


def shards_of(base: Path) -> TextShards:
    return TextShards.open(base / "artifacts" / "download" / "x")


def one_line(code: int | str | None, stderr: str) -> str:
    """Return the error line of a stage that ended as it should on bad input."""
    assert code == 2, stderr
    lines = stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


def test_hub_shards_are_fetched_and_the_last_is_validation(hub_server: HubServer, tmp_path: Path) -> None:
    environment = hub_server.environment(tmp_path / "hf")
    ran = run_stage(tmp_path, environment, source="hub", train_shards=1)
    assert ran.returncode == 0, ran.stderr
    original = hub_server.folder_of("karpathy/fineweb-edu-100b-shuffle")
    shards = shards_of(tmp_path)
    assert [path.name for path in shards.train] == ["shard_00000.parquet"]
    assert shards.validation.read_bytes() == (original / "shard_00002.parquet").read_bytes()
    assert result_of(tmp_path)["outputs"] == ["shards/shard_00000.parquet", "shards/shard_00002.parquet", "index.json"]
    lines = (tmp_path / "artifacts/download/x/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert result_of(tmp_path)["details"]["commit"] == hub_server.commit_of("karpathy/fineweb-edu-100b-shuffle")


def test_the_index_has_hashes_and_counts_of_every_shard(hub_server: HubServer, tmp_path: Path) -> None:
    ran = run_stage(tmp_path, hub_server.environment(tmp_path / "hf"), source="hub", train_shards=2)
    assert ran.returncode == 0, ran.stderr
    shards = shards_of(tmp_path)
    assert shards.sha256 == {path: artifacts.sha256_of(path) for path in (*shards.train, shards.validation)}
    index = json.loads((tmp_path / "artifacts/download/x/index.json").read_text())
    texts = {f"shards/{path.name}": list(documents([path])) for path in shards.sha256}
    assert index["shards"] == {
        name: {"documents": len(found), "characters": sum(map(len, found)), "empty_documents": 0}
        for name, found in texts.items()
    }
    assert index["documents"] == {"train": 240, "validation": 120}
    assert all(path.stat().st_nlink > 1 for path in shards.sha256)  # the store's own files, not copies


def test_a_wrong_token_ends_in_one_line_without_it(hub_server: HubServer, tmp_path: Path) -> None:
    environment = hub_server.environment(tmp_path / "hf") | {"HF_TOKEN": SECRET}
    ran = run_stage(tmp_path, environment, source="hub", train_shards=1)
    assert "HF_TOKEN" in one_line(ran.returncode, ran.stderr)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET not in ran.stdout + ran.stderr + written
    assert not (tmp_path / "artifacts/download/x/result.json").exists()


def test_more_shards_than_there_are_is_refused(hub_server: HubServer, tmp_path: Path) -> None:
    ran = run_stage(tmp_path, hub_server.environment(tmp_path / "hf"), source="hub", train_shards=240)
    assert "train_shards is 240" in one_line(ran.returncode, ran.stderr)


def test_a_data_set_whose_last_shard_is_also_a_training_shard_is_refused(tmp_path: Path) -> None:
    folder = write_miniature(tmp_path / "hub") / "datasets/karpathy/fineweb-edu-100b-shuffle"
    shutil.copy(folder / "shard_00001.parquet", folder / "shard_00003.parquet")
    with HubServer(tmp_path / "hub") as server:
        ran = run_stage(tmp_path, server.environment(tmp_path / "hf"), source="hub", train_shards=2)
        assert "shard_00001.parquet has the same bytes" in one_line(ran.returncode, ran.stderr)
        assert not any("/resolve/" in path for path in server.requests)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"body": ["some text"]}, "has no column 'text' (columns: body)"),
        ({"text": pa.array(["", None, "  "])}, "all of its 3 documents are empty"),
        ({"text": pa.array([], pa.string())}, "has no rows"),
        ({"text": [1, 2]}, "is int64, expected strings"),
    ],
)
def test_a_shard_without_text_ends_in_one_line_that_names_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: dict[str, Any],
    expected: str,
) -> None:
    root = write_miniature(tmp_path / "hub")
    pq.write_table(pa.table(table), root / "datasets/karpathy/fineweb-edu-100b-shuffle/shard_00000.parquet")
    spec = write_request(tmp_path, source="hub", train_shards=1)
    monkeypatch.setattr(sys, "argv", ["download", str(spec)])
    with HubServer(root) as server, pytest.raises(SystemExit) as stopped:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        artifacts.run_stage(work)
    said = one_line(stopped.value.code, capsys.readouterr().err)
    assert "shard_00000.parquet of karpathy/fineweb-edu-100b-shuffle is of no use" in said and expected in said


def test_a_corrupt_shard_of_the_hub_ends_in_one_line(tmp_path: Path) -> None:
    root = write_miniature(tmp_path / "hub")
    (root / "datasets/karpathy/fineweb-edu-100b-shuffle/shard_00001.parquet").write_bytes(b"PAR1 not parquet PAR1")
    with HubServer(root) as server:
        ran = run_stage(tmp_path, server.environment(tmp_path / "hf"), source="hub", train_shards=2)
    assert "shard_00001.parquet is no readable parquet file" in one_line(ran.returncode, ran.stderr)
    assert not (tmp_path / "artifacts/download/x/result.json").exists()


def test_a_folder_becomes_shards_of_all_its_documents(tmp_path: Path) -> None:
    data = tmp_path / "data" / "deep"
    data.mkdir(parents=True)
    (data / "a.jsonl").write_text("".join(json.dumps({"text": f"jsonl document {i}"}) + "\n" for i in range(50)))
    (data / "b.txt").write_text("a plain file")
    (data / ".hidden.txt").write_text("not this one")
    ran = run_stage(tmp_path, source="path", path=str(tmp_path / "data"))
    assert ran.returncode == 0, ran.stderr
    shards = shards_of(tmp_path)
    held_out = list(documents([shards.validation]))
    texts = [*documents(shards.train), *held_out]
    assert sorted(texts) == sorted([*(f"jsonl document {i}" for i in range(50)), "a plain file"])
    assert len(held_out) == 2
    index = json.loads((tmp_path / "artifacts/download/x/index.json").read_text())
    assert index["documents"] == {"train": 49, "validation": 2}
    assert shards.sha256[shards.validation] == artifacts.sha256_of(shards.validation)
    assert sum(index["characters"].values()) == sum(map(len, texts))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (None, b"", "has no file of these kinds: .parquet, .jsonl"),
        ("bad.parquet", b"PAR1 this is no parquet file PAR1", "bad.parquet, the file: no readable parquet"),
        ("bad.jsonl", b'{"text": "fine"}\n{"text": 3}\n', "bad.jsonl, line 2: the field 'text' is of type int"),
        ("bad.jsonl", b'{"text": "fine"}\n\n{"text": \n', "bad.jsonl, line 3: no JSON"),
        ("bad.txt", b"fine\nfine\n\xff\xfe", "bad.txt, line 3: not UTF-8"),
        ("one.txt", b"only one document", "holds 1 different documents"),
    ],
)
def test_bad_folders_end_in_one_line_that_names_the_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
    content: bytes,
    expected: str,
) -> None:
    (tmp_path / "data").mkdir()
    if name:
        (tmp_path / "data" / name).write_bytes(content)
    spec = write_request(tmp_path, source="path", path=str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["download", str(spec)])
    with pytest.raises(SystemExit) as stopped:
        artifacts.run_stage(work)
    assert expected in one_line(stopped.value.code, capsys.readouterr().err)
    assert not spec.with_name("result.json").exists()


def test_shards_depend_on_texts_and_seed_only(tmp_path: Path) -> None:
    texts = [f"document number {i}" for i in range(300)]
    written = {}
    for name, order, seed in (("a", texts, 1), ("b", [*texts[::-1], texts[0]], 1), ("c", texts, 2)):
        (tmp_path / name / "shards").mkdir(parents=True)
        train, validation = write_text_shards(tmp_path / name, order, seed, OwnTextCounts())
        written[name] = [(tmp_path / name / shard).read_bytes() for shard in (*train, validation)]
    assert written["a"] == written["b"] != written["c"]
    assert check_parquet(tmp_path / "a" / validation) == 15


def test_bad_lines_that_are_allowed_are_left_out_counted_and_listed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"body": text}) for text in ("a first document", "A  first document", "a first document", "ok")]
    lines += ["not json", json.dumps({"body": None}), json.dumps({"text": "another field"})]
    (tmp_path / "data" / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "data" / "b.csv").write_text("a,b")
    ran = run_stage(tmp_path, source="path", path=str(tmp_path / "data"), text_column="body", max_bad_lines=2)
    assert ran.returncode == 0, ran.stderr
    metrics = result_of(tmp_path)["metrics"]
    expected = {
        "bad_lines": 2,
        "empty_documents_left_out": 1,
        "near_empty_documents": 1,
        "duplicates_left_out": 1,
        "documents_alike": 1,
        "files_of_other_kinds": 1,
    }
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["train_documents"] + metrics["validation_documents"] == 3
    listed = (tmp_path / "artifacts/download/x/bad_lines.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] for line in listed] == ["line 5", "line 7"]


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 different documents"):
        write_text_shards(tmp_path, ["same", "same"], 0, OwnTextCounts())


@pytest.mark.hub
@pytest.mark.slow
def test_the_real_mirror_is_fetched_whole(mirror_server: HubServer, tmp_path: Path) -> None:
    ran = run_stage(tmp_path, mirror_server.environment(tmp_path / "hf"), source="hub", train_shards=20)
    assert ran.returncode == 0, ran.stderr
    assert (
        result_of(tmp_path)["metrics"]["train_documents"] + result_of(tmp_path)["metrics"]["validation_documents"]
        == 31_051
    )
