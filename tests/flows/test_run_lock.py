"""What is known of a flow run by its lock."""

import os
import subprocess
import sys
from pathlib import Path

from flows import run_lock

HOLD = """
import sys, time
from pathlib import Path
from flows import run_lock
with run_lock.alive(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_is_alive_while_its_process_holds_the_lock_and_dead_once_that_was_killed(tmp_path: Path) -> None:
    assert run_lock.look(tmp_path, "run").life == "elsewhere"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert run_lock.look(tmp_path, "run") == run_lock.RunState("alive", holder.pid)
        assert run_lock.living(tmp_path) == {"run": holder.pid}
        holder.kill()
    assert run_lock.look(tmp_path, "run") == run_lock.RunState("dead", holder.pid)
    assert run_lock.living(tmp_path) == {}


def test_a_run_that_has_left_in_order_is_given_the_time_to_say_so(tmp_path: Path) -> None:
    with run_lock.alive(tmp_path, "run"):
        assert run_lock.look(tmp_path, "run") == run_lock.RunState("alive", os.getpid())
    assert run_lock.look(tmp_path, "run") == run_lock.RunState("ended", os.getpid())
    (run_lock.folder(tmp_path) / "run.lock").write_text("ended   999999999")
    assert run_lock.look(tmp_path, "run").life == "dead"


def test_a_retry_keeps_the_name_of_the_first_attempt(tmp_path: Path) -> None:
    assert run_lock.first_name(tmp_path, "run", "demo-d4-morning") == "demo-d4-morning"
    assert run_lock.first_name(tmp_path, "run", "demo-d4-evening") == "demo-d4-morning"
    assert run_lock.first_name(tmp_path, "another", "demo-d4-evening") == "demo-d4-evening"
