"""`nanochat data`: what a user sees of their text before anything is trained on it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from nanochat_core.artifacts import sha256_of, write_json
from nanochat_core.data.shards import write_shard


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", *arguments], env={"COLUMNS": "100"})
    return done.exit_code, done.output


@pytest.fixture
def own(tmp_path: Path) -> Path:
    lines = [json.dumps({"text": f"document number {i}"}) for i in range(40)] + ['{"text": "bell \\u0007"}', "not json"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("Ein Satz.")
    return tmp_path


def test_stats_count_documents_and_name_what_is_bad(own: Path) -> None:
    code, output = run("stats", str(own))
    assert code == 0, output
    for expected in ("documents", "42", "Latin 100.0%", "a.jsonl, line 42: no JSON"):
        assert expected in output


def test_stats_as_json(own: Path) -> None:
    code, output = run("stats", str(own / "a.jsonl"), "--json")
    found = json.loads(output)
    assert code == 0 and found["documents"] == 41 and found["bad_lines"] == 1 and found["scripts"] == {"Latin": 1.0}
    assert "a.jsonl, line 42: no JSON" in found["first_bad_lines"][0]


def test_stats_name_files_that_are_left_alone(own: Path) -> None:
    (own / "c.csv").write_text("a,b")
    assert "Files of other kinds, not read: 1 .csv." in run("stats", str(own))[1]


@pytest.mark.parametrize("command", [["stats"], ["stats", "--json"], ["show"], ["show", "--seed", "1"]])
@pytest.mark.parametrize(
    ("content", "reason"), [('{"texts": "a"}', "no field 'text', did you mean 'texts'?"), ("", "the files are empty")]
)
def test_files_without_one_document_end_in_one_line(
    tmp_path: Path, command: list[str], content: str, reason: str
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    code, output = run(*command, str(tmp_path))
    assert code == 2 and reason in output and len(output.strip().splitlines()) == 1


def test_show_prints_documents_with_their_places_and_control_characters_visible(own: Path) -> None:
    code, output = run("show", str(own), "--number", "100", "--characters", "10")
    assert code == 0, output
    assert "a.jsonl, line 1, 17 characters" in output and "document n" in output and "7 characters more" in output
    assert "bell \\x07" in output and "a.jsonl, line 42: no JSON" in output


def test_a_random_choice_depends_on_the_seed_alone(own: Path) -> None:
    outputs = [run("show", str(own), "--number", "3", "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]


def test_the_newest_download_is_shown_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert "Nothing has been downloaded" in run("stats")[1]
    folder = tmp_path / "artifacts" / "download" / "x"
    folder.mkdir(parents=True)
    names = ["train.parquet", "validation.parquet"]
    for name in names:
        write_shard(folder / name, [f"text of {name}"])
    sha256 = {name: sha256_of(folder / name) for name in names}
    write_json(folder / "index.json", {"train": names[:1], "validation": names[1], "sha256": sha256})
    write_json(tmp_path / "newest_run.json", {"run_name": "r", "folders": {"download": "download/x"}})
    code, output = run("show")
    assert code == 0 and "text of train.parquet" in output and "text of validation.parquet" in output


def test_a_missing_place_ends_in_one_line(tmp_path: Path) -> None:
    code, output = run("stats", str(tmp_path / "nowhere"))
    assert code == 2 and output.startswith("error: ") and len(output.strip().splitlines()) == 1


def test_pairs_that_cannot_be_written_are_refused_before_a_model_is_asked(own: Path) -> None:
    code, output = run("pairs", "sft", "--tasks", "Arithmetic", "--out", str(own / "none" / "pairs.jsonl"))
    assert code == 2 and "expected the name of a file, in a folder that is there" in output
    code, output = run("pairs", "sft", "--tasks", "Arithmetic", "--set", "temperature=0")
    assert code == 2 and "temperature: Input should be greater than" in output
