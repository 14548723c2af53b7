"""The systemd unit: its commands are ours, and systemd itself finds nothing wrong with it where it is installed."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from flows.cli import app

UNIT = Path(__file__).parents[2] / "deployments" / "systemd" / "nanochat.service"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_starts_and_stops_the_node() -> None:
    service = unit()["Service"]
    assert service["Type"] == "oneshot" and service["RemainAfterExit"] == "yes"
    commands = [Path(service[key]).name for key in ("ExecStart", "ExecStop")]
    assert commands == ["nanochat up", "nanochat down"]
    assert {"up", "down"} <= get_command(app).commands.keys()  # type: ignore[attr-defined]
    assert unit()["Install"]["WantedBy"] == "default.target"


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed; the unit is parsed without it"
)
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    command = tmp_path / ".venv" / "bin" / "nanochat"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("%h/nanochat", str(tmp_path)))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert "nanochat.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
