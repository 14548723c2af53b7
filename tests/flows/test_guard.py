"""The guard: no process of a stage outlives it, and it says how the stage ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

GUARD = [sys.executable, "-m", "flows.guard"]
TREE = str(Path(__file__).parent / "fake_stages" / "tree.py")
START = "import sys; sys.path.insert(0, {root!r}); from flows import guard; from pathlib import Path; "
SHORT_GRACE = "guard.stop_all.__defaults__ = (1.0,); sys.exit(guard.main(Path(sys.argv[1]), sys.argv[2:]))"


def start_tree(folder: Path) -> tuple["subprocess.Popen[bytes]", list[psutil.Process]]:
    """Start a guard with a grace period of 1 s over an agent and two ranks; return it and the three."""
    code = START.format(root=str(Path(__file__).parents[2])) + SHORT_GRACE
    guard = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), sys.executable, TREE, str(folder)], stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 20
    while len(list(folder.iterdir())) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    processes = [psutil.Process(int(path.name)) for path in folder.iterdir()]
    assert len(processes) == 3
    return guard, processes


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt its orphans")
@pytest.mark.parametrize("event", ["the task is gone", "sigterm", "agent is killed"])
def test_nothing_survives_not_even_deaf_ranks_in_sessions_of_their_own(tmp_path: Path, event: str) -> None:
    guard, processes = start_tree(tmp_path)
    assert guard.stdin is not None
    if event == "the task is gone":
        guard.stdin.close()
    elif event == "sigterm":
        guard.send_signal(signal.SIGTERM)
    else:
        next(process for process in processes if process.ppid() == guard.pid).kill()
    guard.wait(timeout=10)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_a_stall_leaves_the_stacks_of_the_processes_in_the_log(tmp_path: Path) -> None:
    script = (
        "import time, pathlib, sys; pathlib.Path(sys.argv[1], 'ready').touch()\ndef stuck(): time.sleep(600)\nstuck()"
    )
    log = tmp_path / "log.txt"
    with open(log, "wb") as output:
        guard = subprocess.Popen(
            [*GUARD, str(tmp_path), sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stderr=output,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        )
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    guard.communicate(b"stall\n", timeout=20)
    assert guard.returncode != 0
    assert "stuck" in log.read_text()


def test_who_lets_answers_finish_is_urged_before_the_grace_is_over(tmp_path: Path) -> None:
    script = f"""if True:
        import pathlib, signal, time
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        while len(told) < 2:
            time.sleep(0.02)
        raise SystemExit(7)
    """
    urged = [*GUARD, "--urge", "0.3", str(tmp_path), sys.executable, "-c", script]
    with subprocess.Popen(urged, stdin=subprocess.PIPE) as guard:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        started = time.monotonic()
        assert guard.stdin is not None
        guard.stdin.close()
        assert guard.wait(timeout=20) == 7
    assert time.monotonic() - started > 0.3


def code_of(folder: Path, script: str) -> int:
    with subprocess.Popen([*GUARD, str(folder), sys.executable, "-c", script], stdin=subprocess.PIPE) as guard:
        return guard.wait(timeout=20)


def test_the_exit_code_is_the_commands_own(tmp_path: Path) -> None:
    assert code_of(tmp_path, "pass") == 0
    assert code_of(tmp_path, "raise SystemExit(3)") == 3
    assert code_of(tmp_path, "import os; os.kill(os.getpid(), 9)") == 128 + 9


def test_the_word_in_exit_json_outranks_the_commands_code(tmp_path: Path) -> None:
    word = tmp_path / "exit.json"
    script = (
        f"import json, pathlib; pathlib.Path({str(word)!r}).write_text(json.dumps(dict(code=75))); raise SystemExit(1)"
    )
    assert code_of(tmp_path, script) == 75
