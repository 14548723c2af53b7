"""The sandbox: what a program can do, and what it cannot."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks_eval.sandbox.inside.request import LANDLOCK, NAMESPACES, RLIMITS
from tasks_eval.sandbox.levels import LEVELS, probe, sandbox_level
from tasks_eval.sandbox.process import ROOT, Jailed, Limits, run_at
from tasks_eval.sandbox.run import run_program

FAST = Limits(cpu_seconds=1, wall_seconds=0.3)


def test_a_program_runs_and_its_output_is_returned() -> None:
    outcome = run_program("print('hello')")
    assert (outcome.status, outcome.returncode, outcome.output) == ("exited", 0, "hello\n")
    assert outcome.level == sandbox_level()


def test_the_standard_library_is_there_and_other_packages_are_not() -> None:
    assert run_program("import math, json, re, collections, itertools").returncode == 0
    assert "ModuleNotFoundError" in run_program("import numpy").output


def test_a_program_that_waits_is_stopped_at_the_time_limit() -> None:
    started = time.monotonic()
    outcome = run_program("import time\ntime.sleep(60)", FAST)
    assert (outcome.status, outcome.returncode) == ("timeout", None)
    assert time.monotonic() - started < 10


def test_a_program_that_computes_for_ever_is_stopped_at_the_cpu_limit() -> None:
    outcome = run_program("while True: pass", Limits(cpu_seconds=1, wall_seconds=30.0))
    assert outcome.status == "exited"
    assert outcome.returncode is not None and outcome.returncode < 0


def test_a_program_that_closes_its_output_and_goes_on_is_stopped() -> None:
    outcome = run_program("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)", FAST)
    assert outcome.status == "timeout"


def test_a_flood_of_output_is_cut() -> None:
    outcome = run_program("while True: print('x' * 1000)")
    assert outcome.status == "too much output"
    assert len(outcome.output) <= Limits().output_bytes


def test_memory_is_bounded() -> None:
    assert "MemoryError" in run_program("x = bytearray(1 << 32)").output


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_the_null_device_can_be_written(level: str) -> None:
    if trouble := probe(level):
        pytest.skip(trouble)
    outcome = run_at(level, "with open('/dev/null', 'w') as file: print(file.write('x'))", Limits())
    assert outcome.output == "1\n"


@pytest.mark.parametrize("level", LEVELS)
def test_files_are_bounded_together_or_forbidden(level: str) -> None:
    if trouble := probe(level):
        pytest.skip(trouble)
    write = "for number in range(9):\n    open(str(number), 'wb').write(bytes(1 << 17))\n    print(number)"
    outcome = run_at(level, write, Limits())
    assert "OSError" in outcome.output or "PermissionError" in outcome.output
    assert outcome.output.startswith("0\n1\n2\n" if level == NAMESPACES else "Traceback")


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_the_number_of_files_is_bounded(level: str) -> None:
    """A million empty ones take 1 GB of the kernel's memory."""
    if trouble := probe(level):
        pytest.skip(trouble)
    outcome = run_at(level, "import os\nfor number in range(999): os.mkdir(str(number))", Limits())
    assert outcome.output.strip().splitlines()[-1].startswith(("OSError", "PermissionError"))


def test_a_program_too_long_to_run_is_refused() -> None:
    assert run_program("#" * (2 << 20)).status == "too long to run"


def test_text_that_is_no_python_ends_with_a_syntax_error() -> None:
    assert "SyntaxError" in run_program("def f(:").output
    assert run_program("\ud800").returncode != 0


def test_sets_have_the_same_order_in_each_run() -> None:
    outputs = {run_program("print({str(number) for number in range(50)})").output for _ in range(3)}
    assert len(outputs) == 1


def test_the_environment_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "secret" not in run_program("import os\nprint(os.environ)").output


def test_the_working_folder_is_empty_and_gone_afterwards() -> None:
    outcome = run_program("import os\nprint(os.getcwd(), os.listdir())")
    folder, _, names = outcome.output.strip().partition(" ")
    assert names == "[]"
    assert not Path(folder).exists()


def test_folders_that_a_killed_evaluator_left_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("nanochat-sandbox-old", "nanochat-sandbox-of-another", "others"):
        (tmp_path / name).mkdir()
    for name in ("nanochat-sandbox-old", "others"):
        os.utime(tmp_path / name, (0, 0))
    assert run_at(RLIMITS, "print(1)", Limits()).output == "1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nanochat-sandbox-of-another", "others"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is read")
@pytest.mark.parametrize(
    "level", [NAMESPACES, *(pytest.param(level, marks=pytest.mark.slow) for level in (LANDLOCK, RLIMITS))]
)
def test_no_process_of_ours_dumps_core(level: str) -> None:
    """Also not one that only waits, and ends by the signal that ended its program."""
    if trouble := probe(level):
        pytest.skip(trouble)
    program = {"source": "import time\nprint(1, flush=True)\ntime.sleep(60)"}
    with Jailed("program", level, Limits(), program, ()) as process:
        process.read()
        limits = Path(f"/proc/{process.process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is read")
@pytest.mark.parametrize("level", [LEVELS[0], *(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[1:])])
def test_when_whoever_asked_is_killed_the_program_dies_too(level: str) -> None:
    if trouble := probe(level):
        pytest.skip(trouble)
    asking = (
        "import sys\nfrom tasks_eval.sandbox import process\nread = process.Jailed.read\n"
        "process.Jailed.read = lambda self: (read(self), print(self.output.decode(), flush=True))[0]\n"
        "process.BOOT += '  # ' + sys.argv[2]\nprogram = 'import time; print(1, flush=True); time.sleep(60)'\n"
        "process.run_at(sys.argv[1], program, process.Limits(wall_seconds=60.0))"
    )
    mark = f"mark-of-{level}-{os.getpid()}"
    command = [sys.executable, "-c", asking, level, mark]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"1\n"  # the program runs
        assert any(pid != parent.pid for pid in marked(mark))
        parent.kill()
    wait_until(lambda: not marked(mark))


def marked(mark: str) -> list[int]:
    """Return the processes that have the mark on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_without_a_sandbox_root_becomes_somebody_who_owns_nothing() -> None:
    """Else the limit on processes would not bind, and every file could be written."""
    program = "import os\nprint(os.getuid() > 1000, os.getgid() > 1000, os.getgroups())\nos.setuid(0)"
    assert run_at(RLIMITS, program, Limits()).output.startswith("True True []\nTraceback")


def test_there_is_no_network_where_there_is_a_sandbox() -> None:
    if sandbox_level() == RLIMITS:
        pytest.skip("this machine grants no sandbox")
    outcome = run_program("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)")
    assert "PermissionError" in outcome.output


def test_the_traceback_of_a_program_shows_the_program_only() -> None:
    output = run_program("def f():\n    return 1 / 0\n\nf()").output
    assert output.count("File ") == output.count('File "program.py"') == 2
    assert output.endswith("ZeroDivisionError: division by zero\n")


def test_a_program_is_main_and_ends_as_it_likes() -> None:
    assert run_program("if __name__ == '__main__': raise SystemExit(7)").returncode == 7
    assert run_program("import atexit\natexit.register(print, 'bye')").output == "bye\n"


def test_a_signal_to_itself_ends_a_program_and_one_to_its_group_is_refused() -> None:
    assert run_program("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)").returncode == -9
    if sandbox_level() != RLIMITS:
        assert "PermissionError" in run_program("import os, signal\nos.killpg(0, signal.SIGKILL)").output
