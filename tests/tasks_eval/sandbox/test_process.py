"""The sandbox: what a program can do, and what it cannot."""

import sys
import time
from pathlib import Path

import pytest

from tasks_eval.sandbox.process import Limits, run_program, sandbox_level

FAST = Limits(cpu_seconds=1, wall_seconds=1.0)


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


def test_memory_and_written_files_are_bounded() -> None:
    assert "MemoryError" in run_program("x = bytearray(1 << 32)").output
    assert "File too large" in run_program("open('x', 'wb').write(bytes(1 << 24))").output


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
    assert names == "['program.py']"
    assert not Path(folder).exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is read")
def test_what_a_program_started_is_killed_with_it() -> None:
    child = "else:\n    os.close(1)\n    os.close(2)\n    time.sleep(60)"
    program = f"import os, time\npid = os.fork()\nif pid: print(pid)\n{child}"
    output = run_program(program).output.strip()
    if not output.isdigit():
        assert "BlockingIOError" in output  # the limit on processes forbade it (it does not bind root)
        return
    deadline = time.monotonic() + 5
    while is_running(int(output)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(output))


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_there_is_no_network_where_the_level_says_so() -> None:
    if sandbox_level() == "rlimits":
        pytest.skip("the kernel grants no network namespace here")
    outcome = run_program("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)")
    assert "Network is unreachable" in outcome.output


def test_a_signal_to_its_whole_group_reaches_nobody_else() -> None:
    assert run_program("import os, signal\nos.killpg(0, signal.SIGKILL)").returncode == -9
