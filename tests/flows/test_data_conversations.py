"""`nanochat data show` on conversations: what a user sees is learned is what the stage learns."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows import data_conversations
from flows.cli import app
from nanochat_core.artifacts import StageFolder, write_json
from nanochat_core.chat_format import document_of
from tasks_eval.build_conversations import build
from tests.tasks_eval.test_build_conversations import stage_folder

MIXTURE = [{"task": "Arithmetic", "rows": 20}, {"task": "SmolTalk"}]
OWN = {"conversations": [{"from": "human", "value": "Hi \u0007"}, {"from": "gpt", "value": "Hello!"}]}
ALPACA = {"instruction": "Say hi.", "input": "", "output": "Hi!"}


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", "show", *arguments], env={"COLUMNS": "120"})
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage of conversations in a base folder, and the record of its run."""
    base = tmp_path_factory.mktemp("base")
    folder = stage_folder(base / "artifacts", "a", MIXTURE)
    build(StageFolder(folder))
    write_json(base / "newest_run.json", {"run_name": "r", "folders": {"conversations_sft": "conversations_sft/a"}})
    return folder


def test_a_stage_is_shown_with_what_it_learns(stage: Path) -> None:
    code, output = run(str(stage), "--source", "SmolTalk", "--number", "2")
    assert code == 0, output
    assert "train: 26 conversations" in output and "Arithmetic 20, SmolTalk 6" in output and "% learned" in output
    assert output.count("SmolTalk, ") == 2 and "tokens" in output
    assert "<|user_start|>Hi " in output and "<|assistant_start|>⟦Hello!⟧⟦<|assistant_end|>⟧" in output
    assert "What stands between ⟦ and ⟧ is learned" in output


def test_a_copy_of_a_stage_s_file_is_refused_with_the_reason(stage: Path, tmp_path: Path) -> None:
    shutil.copy(stage / "train.parquet", tmp_path / "copy.parquet")
    code, output = run(str(tmp_path / "copy.parquet"))
    assert code == 2 and "is not where its stage wrote it, beside spec.json" in " ".join(output.split())


def test_what_curation_left_out_is_shown_by_task_with_the_reasons(tmp_path: Path) -> None:
    folder = stage_folder(tmp_path / "artifacts", "a", MIXTURE, curation={"drop_duplicates": True})
    build(StageFolder(folder))
    code, output = run(str(folder), "--number", "1")
    assert code == 0, output
    assert "Left out by curation: 5; SmolTalk 5 held out." in output
    _, of_held_out = run(str(folder / "validation.parquet"), "--number", "1")
    assert "Left out" not in of_held_out


def test_the_output_of_the_tool_is_not_shown_as_learned(stage: Path) -> None:
    code, output = run(str(stage), "--source", "Arithmetic", "--number", "20")
    assert code == 0 and "⟦<|python_end|>⟧<|output_start|>" in output
    assert "<|output_end|>⟦" in output and "⟦<|output_start|>" not in output


@pytest.mark.parametrize("name", ["sft", "conversations_sft"])
def test_a_stage_of_the_newest_run_is_found_by_its_name(
    name: str, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.parents[2]))
    assert run(name, "--number", "1")[1] == run(str(stage / "train.parquet"), "--number", "1")[1]
    code, output = run("rl")
    assert code == 2 and "does not exist" in output


def test_the_choice_is_the_seeds_and_the_validation_file_can_be_named(stage: Path) -> None:
    outputs = [run(str(stage), "--number", "3", "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]
    code, output = run(str(stage / "validation.parquet"), "--number", "1")
    assert code == 0 and output.startswith("validation: 9 conversations")


def test_an_unknown_task_is_refused_with_those_that_there_are(stage: Path) -> None:
    code, output = run(str(stage), "--source", "GSM8K")
    assert code == 2 and "has no conversation of 'GSM8K'; it has Arithmetic, SmolTalk" in output


def test_a_file_of_ones_own_is_shown_as_it_would_be_learned_and_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join([json.dumps(OWN), "{", json.dumps(ALPACA)]))
    code, output = run(str(path))
    assert code == 0, output
    assert "own.jsonl, line 1, ShareGPT" in output and "own.jsonl, line 3, Alpaca" in output
    assert "<|user_start|>Hi \\x07<|user_end|>" in output and "⟦Hi!⟧" in output
    assert "bad: " in output and "line 2: not JSON" in output
    assert run(str(path), "--number", "1", "--seed", "1")[0] == 0


def test_lines_with_the_column_that_is_asked_for_are_text(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "Once upon a time"}))
    code, output = run(str(path))
    assert code == 0 and "Once upon a time" in output and "<|bos|>" not in output
    (tmp_path / "own.jsonl").write_text(json.dumps(OWN))
    code, output = run(str(path), str(tmp_path / "own.jsonl"))
    assert code == 2 and "show one kind at a time" in output
    assert run(str(path), "--source", "GSM8K")[0] == run(str(tmp_path / "own.jsonl"), "--source", "GSM8K")[0] == 2


def test_a_long_conversation_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**ALPACA, "output": "Hi! " * 50}))
    code, output = run(str(path), "--characters", "100")
    assert code == 0 and "characters more" in output and output.count("Hi!") < 20


def test_on_a_terminal_what_is_learned_is_green() -> None:
    coloured = Console(force_terminal=True, color_system="standard", width=80)
    found = data_conversations.FoundConversation("a", list(data_conversations.stretches(document_of("Once"))))
    with coloured.capture() as capture:
        coloured.print(data_conversations._panel(found, 100, coloured))
    assert "\x1b[32mOnce\x1b[0m" in capture.get() and "⟦" not in capture.get()
