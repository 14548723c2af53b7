"""What `nanochat chat` tells the process that it becomes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import launch
from flows.cli import app
from nanochat_core.inference.chat.spec import parse_chat


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Module and spec of each chat that was started."""
    started: list[Any] = []
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(
        launch, "become", lambda module, arguments, _: started.append((module, json.loads(arguments[0])))
    )
    return started


def test_options_and_settings_reach_the_chat(
    became: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--url", "http://127.0.0.1:8000", "-p", "hi", "--temperature", "0.5", "--json", "--api-key-file", "key"]
    changes = ["--set", "top_k=7", "--set", "system=Be brief.", "--set", "precision=int8"]
    assert CliRunner().invoke(app, ["chat", "other", *options, *changes]).exit_code == 0
    ((module, values),) = became
    spec = parse_chat(values)
    assert module == "nanochat_core.inference.chat.cli"
    assert (spec.url, spec.model_name, spec.prompt, spec.as_json) == ("http://127.0.0.1:8000", "other", "hi", True)
    assert (spec.settings.temperature, spec.settings.top_k, spec.settings.system) == (0.5, 7, "Be brief.")
    assert (spec.precision, spec.api_key_file) == ("int8", str(tmp_path / "key"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "temprature=1"], "unknown setting temprature (did you mean 'temperature'?)"),
        (["--temperature", "3"], "temperature: "),
        (["--set", "precision=int3"], "precision: "),
        (["--set", "seed"], "expected field=value"),
    ],
)
def test_bad_options_are_refused_in_one_line(became: list[Any], arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", "http://127.0.0.1:8000", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert became == []
