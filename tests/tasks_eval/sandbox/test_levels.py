"""The ladder: what a machine grants is used, and without a sandbox nothing runs unless somebody said so."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nanochat_core.errors import NanochatError
from tasks_eval.sandbox import levels, process
from tasks_eval.sandbox.inside import landlock
from tasks_eval.sandbox.inside.request import BUBBLEWRAP, LANDLOCK, NAMESPACES, RLIMITS
from tasks_eval.sandbox.levels import LEVELS, probe, require_sandbox, rungs, sandbox_level
from tasks_eval.sandbox.process import ROOT, SandboxBroken, run_at
from tasks_eval.sandbox.python_tool import python
from tasks_eval.sandbox.run import run_program
from tasks_eval.sandbox.unit_tests import run_unit_tests

CACHES = (levels.rungs, levels.sandbox_level, levels._warn)


@pytest.fixture
def without_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that grants the weakest level only."""
    for cache in CACHES:
        cache.cache_clear()
    monkeypatch.delenv(levels.UNSAFE, raising=False)
    monkeypatch.setattr(levels, "_permitted", False)
    monkeypatch.setattr(levels, "probe", lambda level: "" if level == RLIMITS else "the kernel says no")
    yield
    for cache in CACHES:
        cache.cache_clear()


def test_the_strongest_level_that_holds_is_used() -> None:
    found = rungs()
    assert [rung.level for rung in found] == list(LEVELS[: len(found)])
    assert all(rung.trouble for rung in found[:-1])
    assert sandbox_level() == found[-1].level


def grants(*command: str) -> bool:
    """Tell whether a program is there, and does what it is asked."""
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_what_the_kernel_grants_is_a_level_here() -> None:
    """Asked of other programs, so that a wall of ours that breaks is not taken for a machine that has none."""
    try:
        has_landlock = landlock.abi() > 0
    except OSError:
        has_landlock = False
    if has_landlock:
        assert probe(LANDLOCK) == ""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork"]
    if has_landlock and grants(*unshare, "mount", "-t", "tmpfs", "none", "/tmp"):
        assert probe(NAMESPACES) == ""
    if grants("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"):
        assert probe(BUBBLEWRAP) == ""


def test_landlock_stands_behind_the_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program for which the file system has not been exchanged still cannot open its files."""
    if trouble := probe(NAMESPACES):
        pytest.skip(trouble)
    opening = "from tasks_eval.sandbox.inside import namespaces as n; n.enter = lambda *_: None; n.WORK = '/dev/shm'; "
    monkeypatch.setattr(process, "BOOT", process.BOOT.replace("from tasks_eval", f"{opening}from tasks_eval", 1))
    assert "PermissionError" in run_at(NAMESPACES, "open('/etc/passwd')", process.DEFAULT_LIMITS).output


@pytest.mark.usefixtures("without_sandbox")
def test_without_a_sandbox_nothing_runs_until_somebody_allows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert sandbox_level() == RLIMITS
    meta = {"prompt": "", "entry_point": "f", "test": ""}
    for run in (require_sandbox, lambda: run_program("1"), lambda: python("1"), lambda: run_unit_tests(meta, "")):
        with pytest.raises(NanochatError, match=r"no sandbox .*the kernel says no.*install bubblewrap.*ALLOW_UNSAFE"):
            run()
    levels.permit_unsafe()
    assert run_program("print(1)").output == "1\n"
    assert run_program("print(1)").level == RLIMITS
    assert capsys.readouterr().err.count("WITHOUT a sandbox") == 1


@pytest.mark.usefixtures("without_sandbox")
def test_the_environment_allows_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(levels.UNSAFE, "0")
    assert not levels.is_unsafe_permitted()
    monkeypatch.setenv(levels.UNSAFE, "1")
    assert require_sandbox() == RLIMITS


@pytest.mark.usefixtures("without_sandbox")
def test_a_machine_that_runs_nothing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "probe", lambda level: "no memory")
    with pytest.raises(NanochatError, match="cannot run a program on this machine: no memory"):
        sandbox_level()


def test_a_level_that_does_not_hold_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "run_at", lambda level, source, limits: run_at(RLIMITS, source, limits))
    assert probe(NAMESPACES).startswith("does not hold: a program reads files outside")


def test_a_wall_that_cannot_be_built_is_an_error_and_never_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BOOT", "raise SystemExit('no wall')")
    meta = {"prompt": "", "entry_point": "f", "test": "def check(candidate): pass"}
    for run in (lambda: run_at(RLIMITS, "1", process.DEFAULT_LIMITS), lambda: run_unit_tests(meta, "", level=RLIMITS)):
        with pytest.raises(SandboxBroken, match="'rlimits' could not be built: no wall"):
            run()
    assert probe(RLIMITS) == "no wall"


def test_without_bubblewrap_that_level_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert probe(BUBBLEWRAP) == "the program bwrap is not installed"


def test_the_level_is_told_to_whoever_asks() -> None:
    done = subprocess.run([sys.executable, "-m", "tasks_eval.sandbox"], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout)["level"] == sandbox_level()
