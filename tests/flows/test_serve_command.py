"""`nanochat serve`: what it tells the server, and how it refuses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from flows import launch
from flows.cli import app
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec
from tests.fake_engine import wait_until
from tests.flows.chat_model import make_chat_model

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Catch what `nanochat serve` would have become."""
    commands: list[Sequence[str]] = []

    def become(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        assert environment["OMP_WAIT_POLICY"] and "NANOCHAT_BASE_DIR" in environment
        commands.append([module, *arguments])

    monkeypatch.setattr(launch, "become", become)
    return commands


def serve(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["serve", *arguments], env={"COLUMNS": "160"})


def spec_of(command: Sequence[str]) -> ServeSpec:
    module, path = command
    assert module == "deployments.serving"
    return parse_serve_spec(json.loads(Path(path).read_text()))


def test_a_folder_is_served_with_the_defaults(base: Path, became: list[Sequence[str]]) -> None:
    folder = make_chat_model(base, "a", "yes")
    assert serve(str(folder)).exit_code == 0
    spec = spec_of(became[0])
    assert spec.model_folder == str(folder) and Path(spec.tokenizer_folder).parent.name == "tokenizer"
    assert (spec.model_name, spec.host, spec.port, spec.precision) == ("sft", "127.0.0.1", 8000, "auto")


def test_every_option_reaches_the_server(base: Path, became: list[Sequence[str]], tmp_path: Path) -> None:
    folder = make_chat_model(base, "a", "yes")
    keys = tmp_path / "keys"
    options = [
        "--host",
        "0.0.0.0",
        "--port",
        "8123",
        "--name",
        "mine",
        "--precision",
        "bf16",
        "--api-keys-file",
        str(keys),
    ]
    changes = ["--set", "limits.messages=9", "--set", 'cors_origins=["https://a.example"]', "--set", "port=1"]
    assert serve(str(folder), *options, *changes).exit_code == 0
    spec = spec_of(became[0])
    assert (spec.host, spec.port, spec.model_name, spec.precision) == ("0.0.0.0", 8123, "mine", "bf16")
    assert spec.api_keys_file == str(keys) and spec.limits.messages == 9 and spec.cors_origins == ("https://a.example",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "`nanochat run demo` trains one"),
        (["sfd"], "did you mean 'sft'?"),
        (["{folder}", "--precision", "int3"], "precision: "),
        (["{folder}", "--name", "a b"], "model_name: "),
        (["{folder}", "--set", "limits.mesages=1"], "unknown field limits.mesages"),
        (["{folder}", "--set", "port"], "expected field=value"),
        (["{folder}", "--set", "limits=1", "--set", "limits.messages=2"], "limits was set as a whole"),
    ],
)
def test_bad_input_ends_in_one_line(base: Path, became: list[Sequence[str]], arguments: list[str], words: str) -> None:
    folder = make_chat_model(base, "a", "yes") if arguments[:1] == ["{folder}"] else base
    result = serve(*[argument.format(folder=folder) for argument in arguments])
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert became == []


@pytest.mark.slow
def test_the_command_becomes_a_server_that_answers(base: Path, tmp_path: Path) -> None:
    folder, status = make_chat_model(base, "a", "Hi"), tmp_path / "status.json"
    command = [sys.executable, "-m", "flows.cli", "serve", str(folder), "--port", "0", "--set", f"status_file={status}"]
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(PROJECT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as server:
        try:
            wait_until(lambda: status.exists() and json.loads(status.read_text())["state"] == "ready", 180)
            url = json.loads(status.read_text())["url"]
            body = {"messages": [{"role": "user", "content": "Hello?"}], "temperature": 0}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
            assert answer["choices"][0]["message"]["content"] == "Hi" and answer["model"] == "sft"
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0 and f"sft answers at {url}" in out and "Traceback" not in err
