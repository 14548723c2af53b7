"""What `nanochat doctor` says of the sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import doctor_sandbox, launch
from flows.doctor_finding import Finding
from nanochat_core.errors import NanochatError

UNSAFE = {
    "level": "rlimits",
    "is_sandbox": False,
    "is_permitted": False,
    "troubles": {"landlock+seccomp": "old kernel"},
}


def finding() -> Finding:
    (found,) = doctor_sandbox.sandbox(Path())
    return found


def test_this_machine_s_sandbox_is_named() -> None:
    found = finding()
    level = json.loads(launch.ask(doctor_sandbox.MODULE, seconds=60.0))["level"]
    assert found.check == "sandbox" and found.found.startswith(level)
    assert (found.state == "ok") == (level != "rlimits")


@pytest.mark.parametrize(
    ("report", "state", "words"),
    [
        (UNSAFE, "warning", "rlimits (no landlock+seccomp: old kernel)"),
        (UNSAFE | {"is_permitted": True}, "warning", "model code runs unconfined"),
        (UNSAFE | {"level": "landlock+seccomp", "is_sandbox": True}, "ok", "landlock+seccomp"),
    ],
)
def test_a_machine_without_one_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], state: str, words: str
) -> None:
    monkeypatch.setattr(launch, "ask", lambda module, seconds: json.dumps(report))
    found = finding()
    assert found.state == state and words in found.found
    assert (state == "ok") or "install" in found.remedy


def test_a_sandbox_that_cannot_be_asked_is_a_warning_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_sandbox, "MODULE", "tasks_eval.nowhere")
    assert finding().state == "warning" and "No module named" in finding().found


def test_a_module_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NanochatError, match=r"tasks_eval.sandbox does not run: .*timed out"):
        launch.ask("tasks_eval.sandbox", seconds=0.001)
