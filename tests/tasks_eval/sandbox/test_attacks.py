"""No attack is graded as right, none gets out: at each level that this machine offers, as root and as nobody."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks_eval.sandbox.inside.request import RLIMITS
from tasks_eval.sandbox.levels import LEVELS, probe, sandbox_level
from tasks_eval.sandbox.process import ROOT, Limits, run_at
from tests.tasks_eval.sandbox.attack_corpus import BARE, attacks

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
MEMORY_GROWTH_MB, CHILD_MB = 32, 600
QUICK = (
    "os._exit in the function",
    "an int equal to everything",
    "a verdict on every descriptor",
    "a file read",
    "a connection",
    "an orphan by posix_spawn",
    "a flood past Python",
)
OF_ITS_OWN_USER = ("tests raced for", "tests in the memory of whoever asked")  # nothing to be had by others


@functools.cache
def python_for_all() -> str | None:
    """Return a Python, new enough, that a user without rights can start; None where there is none."""
    check = "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.executable, os.X_OK))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [*NOBODY, python, "-c", check]
        if shutil.which("setpriv") and subprocess.run(command, capture_output=True).returncode == 0:
            return python
    return None


def results_of(prefix: list[str], level: str, *names: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return what came of each attack, and the memory that it took."""
    command = [*prefix, "-m", "tests.tasks_eval.sandbox.attack_run", level, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *results, memory = map(json.loads, done.stdout.splitlines())
    return results, memory


def assert_contained(results: list[dict[str, Any]], memory: dict[str, float]) -> None:
    assert [result for result in results if result["is_passed"] or result["breaches"]] == []
    assert memory["memory_growth_mb"] < MEMORY_GROWTH_MB and memory["largest_child_mb"] < CHILD_MB


def test_a_few_attacks_are_contained() -> None:
    if sandbox_level() == RLIMITS:
        pytest.skip("this machine grants no sandbox")
    results, memory = results_of([sys.executable], sandbox_level(), *QUICK)
    assert len(results) == len(QUICK)
    assert_contained(results, memory)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("user", ["whoever tests", "nobody"])
@pytest.mark.parametrize("level", [*LEVELS, BARE])
def test_all_attacks_are_contained(level: str, user: str) -> None:
    """Whoever tests makes all of them; nobody makes a third, of each kind."""
    if trouble := probe(RLIMITS if level == BARE else level):
        pytest.skip(trouble)
    if level == RLIMITS and not has_seccomp():
        pytest.skip("this machine has no seccomp")
    prefix = [sys.executable]
    if user == "nobody":
        prefix = as_nobody()
    expected = [attack.name for attack in attacks() if attack.is_held_at(level)]
    if user == "nobody":
        some = {*expected[:: len(expected) // 35], *OF_ITS_OWN_USER}
        expected = [name for name in expected if name in some]
    results, memory = results_of(prefix, level, *expected)
    assert [result["name"] for result in results] == expected and len(expected) >= 35
    assert_contained(results, memory)


def has_seccomp() -> bool:
    return "Seccomp:\t2" in run_at(RLIMITS, "print(open('/proc/self/status').read())", Limits()).output


def as_nobody() -> list[str]:
    """Return what a command begins with that runs as nobody; skips where that cannot be."""
    if os.geteuid() != 0 or python_for_all() is None or not is_open_to_all(ROOT):
        pytest.skip("only root can become nobody, with a Python and a project that nobody can read")
    return [*NOBODY, str(python_for_all())]


def test_where_programs_run_as_whoever_asks_they_find_no_tests() -> None:
    results, memory = results_of(as_nobody(), RLIMITS, OF_ITS_OWN_USER[1])  # the other takes long
    assert len(results) == 1
    assert_contained(results, memory)


def is_open_to_all(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (folder, *folder.parents))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is read")
def test_an_attack_that_gets_through_is_seen() -> None:
    """What the weakest level lets through on an old kernel is what the other tests look for."""
    results, _ = results_of([sys.executable], BARE, "a file read", "a connection", "a file made")
    assert {result["name"]: result["breaches"] for result in results} == {
        "a file read": ["read a file"],
        "a connection": ["reached the network"],
        "a file made": ["changed files"],
    }
