"""What `nanochat doctor` finds, and what it says to do."""

import contextlib
import http.server
import json
import shutil
import socket
import stat
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import doctor, doctor_machine, doctor_network, launch
from flows.cli import app
from flows.doctor_finding import Finding
from flows.doctor_machine import GIB
from nanochat_core import hardware
from nanochat_core.errors import NanochatError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server and no Hub but what a test names."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@contextlib.contextmanager
def server(*, code: int = 200, skew: float = 0.0) -> Iterator[str]:
    """A server whose clock is `skew` seconds behind ours."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(code)
            self.send_header("Date", formatdate(time.time() - skew, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def give_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int, rows: list[list[str]]) -> None:
    """Pretend that the driver knows so many GPUs, and that nvidia-smi says `rows`."""
    for number in range(count):
        folder = tmp_path / "gpus" / f"0000:{number:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\n")
    visible = hardware.visible_gpus
    monkeypatch.setattr(hardware, "visible_gpus", lambda devices: visible(devices, tmp_path / "gpus"))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan  9 2025\n")
    monkeypatch.setattr(doctor_machine, "DRIVER", version)
    monkeypatch.setattr(launch, "ask_nvidia", lambda *fields: rows)


def test_a_machine_in_order_is_fit_and_every_check_has_its_word(base: Path) -> None:
    findings = doctor.examine(base)
    assert doctor.is_fit(findings), [finding for finding in findings if finding.state == "problem"]
    names = {finding.check for finding in findings}
    assert names >= {"python", "packages", "cpu, memory", "gpu", "disk", "file locks", "hub", "clock", "servers"}
    assert all(finding.remedy for finding in findings if finding.state != "ok")
    assert list(base.iterdir()) == []


def test_a_package_that_is_too_old_or_missing_is_a_problem(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    needs = ["typer>=99", "not-there>=1", "pytest>=99; extra == 'dev'", "rich>=1"]
    monkeypatch.setattr(doctor_machine.metadata, "requires", lambda name: needs)
    packages = list(doctor_machine.versions(base))[1]
    assert packages.state == "problem"
    assert packages.found.startswith("typer ") and "not-there none, needed >=1" in packages.found
    assert "pytest" not in packages.found and "rich" not in packages.found


def test_gpus_are_named_with_their_driver_and_who_uses_their_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    give_gpus(monkeypatch, tmp_path, 2, [["0", "3", "81559"], ["1", "40960", "81559"]])
    monkeypatch.setattr(doctor_machine.metadata, "version", lambda name: "2.13.0+cpu")
    found = {finding.check: finding for finding in doctor_machine.gpus(tmp_path)}
    assert found["gpu"].found == "2 of 2 visible: NVIDIA H100 80GB HBM3; driver 570.86.15"
    assert found["torch"].state == "problem" and "cannot use the GPUs" in found["torch"].found
    assert (found["gpu memory"].state, "1: 40.0 of 80 GiB used" in found["gpu memory"].found) == ("warning", True)
    assert found["nccl"].state == "problem"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    hidden = next(doctor_machine.gpus(tmp_path))
    assert hidden.state == "warning" and "1 of 2 visible" in hidden.found and "unset it" in hidden.remedy


def test_a_driver_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give_gpus(monkeypatch, tmp_path, 1, [])

    def fail(*_: str) -> list[list[str]]:
        raise NanochatError("nvidia-smi fails: Unable to determine the device handle")

    monkeypatch.setattr(launch, "ask_nvidia", fail)
    (memory,) = (finding for finding in doctor_machine.gpus(tmp_path) if finding.check == "gpu memory")
    assert memory.state == "problem" and "device handle" in memory.found


def test_nvidia_smi_is_asked_in_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NanochatError, match="does not run"):
        launch.ask_nvidia("index")
    program.write_text("#!/bin/sh\necho '0, 12, 81559'\necho '1, 0, 81559'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert launch.ask_nvidia("index", "memory.used", "memory.total") == [["0", "12", "81559"], ["1", "0", "81559"]]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    with pytest.raises(NanochatError, match="NVIDIA-SMI has failed"):
        launch.ask_nvidia("index")


@pytest.mark.parametrize(("free", "state"), [(GIB, "problem"), (10 * GIB, "warning"), (100 * GIB, "ok")])
def test_little_disk_is_a_warning_and_none_a_problem(
    free: int, state: str, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    assert only(doctor_machine.disk(base / "not" / "yet")).state == state


def test_a_folder_that_cannot_be_written_or_locked_is_a_problem(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(doctor_machine.fcntl, "flock", lambda *_: None)  # what a mount with nolock does
    locks = only(doctor_machine.file_locks(base))
    assert locks.state == "problem" and "keep nobody out" in locks.found

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_machine.tempfile, "TemporaryDirectory", refuse)
    assert "cannot be written" in only(doctor_machine.file_locks(base)).found


def test_a_base_folder_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "base").touch()
    finding = only(doctor_machine.file_locks(tmp_path / "base"))
    assert (finding.state, finding.found) == ("problem", f"{tmp_path / 'base'} is a file")


def test_a_port_that_somebody_else_has_is_named_with_the_way_around(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(doctor_network, "PORTS", (("prefect", port, "--prefect-port"),))
        taken = only(doctor_network.ports(base))
        assert taken.state == "warning" and f"{port} is taken" in taken.found and "--prefect-port" in taken.remedy
    assert only(doctor_network.ports(base)).found == f"{port} is free"
    monkeypatch.setenv("PREFECT_API_URL", "http://head:4200/api")
    assert only(doctor_network.ports(base)).found == "not needed: the environment names a server"


def test_servers_that_are_named_must_answer(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    with server() as url, server(code=503) as broken:
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", broken)
        prefect, mlflow = doctor_network.servers(base)
    assert (prefect.state, mlflow.state) == ("ok", "warning")
    assert "HTTP 503" in mlflow.found
    prefect, _ = doctor_network.servers(base)
    assert prefect.state == "problem" and "does not answer" in prefect.found


def test_passwords_in_addresses_are_not_shown(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:hidden@127.0.0.1:9/api")
    assert not any("hidden" in finding.found for finding in doctor_network.servers(base))


def test_the_hub_and_the_clock_are_compared_where_they_can_be(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    assert only(doctor_network.hub(base)).found.startswith("HF_HUB_OFFLINE is set")
    assert only(doctor_network.clock(base)).found.startswith("compared with nobody")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with server(skew=3600) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert only(doctor_network.hub(base)).state == "ok"
        clock = only(doctor_network.clock(base))
        assert clock.state == "warning" and clock.found.startswith(("3600 s before", "3601 s before"))
    hub = only(doctor_network.hub(base))
    assert hub.state == "warning" and "HF_ENDPOINT" in hub.remedy


def test_a_check_that_breaks_down_is_a_finding_and_no_traceback(base: Path) -> None:
    def broken(base: Path) -> Iterator[Finding]:
        yield Finding("first", "ok", "fine")
        raise RuntimeError("no such file [system]")

    first, second = doctor.findings_of(broken, base)
    assert (first.state, second.state) == ("ok", "problem")
    assert "no such file" in second.found
    doctor.table_of([first, second])  # brackets are no markup


def test_the_command_ends_with_1_for_a_problem_and_speaks_json(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_fit"] is True
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 5))
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "160"})
    assert result.exit_code == 1
    assert "problem" in result.stdout and "nanochat gc" in result.stdout
