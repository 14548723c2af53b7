"""The supervisor between a Prefect task and a stage: whatever happens to the task, no process of the stage survives.

    task --(stdin: a pipe)--> python -m flows.guard FOLDER COMMAND... --> torchrun --> ranks

torchrun starts each rank in a session of its own, so no signal to a process group reaches them. The guard makes itself
the reaper of its orphans (Linux: PR_SET_CHILD_SUBREAPER) and so finds every descendant. When the pipe closes (the task
was cancelled, or its process killed) or on SIGTERM, each gets SIGTERM, and after a grace period SIGKILL. The line
"stall" on the pipe has every process dump its stacks into the log before that. With `--urge SECONDS` before FOLDER, who
has not ended so long after the first SIGTERM gets another: a server that lets its answers finish then cuts them short.

It exits with the code of FOLDER/exit.json, else with the command's own.
"""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

GRACE_SECONDS = 25.0  # Prefect's worker waits 30 s, and so does torchrun for its ranks
DUMP_SECONDS = 2.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STALL = b"stall"


def prctl(option: int, value: int) -> None:
    """Set a process attribute; does nothing where there is no prctl (macOS)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class Child:
    """The command, and every process that it left behind: as their reaper, the guard collects them all."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # the guard itself may be killed
        )
        self.exit_code: int | None = None

    def reap(self) -> None:
        """Collect the ended children, and remember how the command ended (128 + signal where one killed it)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._process.pid:
                code = os.waitstatus_to_exitcode(status)
                self._process.returncode = code
                self.exit_code = code if code >= 0 else 128 - code


def descendants() -> list[psutil.Process]:
    """Return every living process below this one."""
    living = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
        except psutil.NoSuchProcess:
            continue
    return living


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def stop_all(
    reap: Callable[[], None], grace_seconds: float = GRACE_SECONDS, *, urge_seconds: float = GRACE_SECONDS
) -> None:
    """Return when no descendant lives: SIGTERM once to each, SIGKILL to those that outlive the grace period.

    Those that still live after `urge_seconds` of it get a second SIGTERM.
    """
    started = time.monotonic()
    told: set[int] = set()
    is_urged = urge_seconds >= grace_seconds
    while processes := descendants():
        seconds = time.monotonic() - started
        if seconds > grace_seconds:
            send(processes, signal.SIGKILL)
        else:
            if seconds > urge_seconds and not is_urged:
                is_urged, told = True, set()
            send([process for process in processes if process.pid not in told], signal.SIGTERM)
            told |= {process.pid for process in processes}
        time.sleep(0.05)
        reap()
    reap()


def dump_stacks() -> None:
    """Have every descendant print its stacks and die: the launcher sets PYTHONFAULTHANDLER, which catches SIGABRT.

    torchrun itself is spared, for it passes its ranks' words on. A stopped process has to be woken to speak.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    everybody, starters = descendants(), psutil.Process().children()
    speakers = [process for process in everybody if process not in starters] or everybody
    for process in speakers:
        if sys.platform == "linux":
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
    send(speakers, signal.SIGABRT)
    send(speakers, signal.SIGCONT)
    time.sleep(DUMP_SECONDS)


def wait(child: Child, wakeup: int) -> bytes | None:
    """Wait until the command ends (None), the task hangs up or a signal asks to stop (b""), or the task says a word."""
    stop_signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    while True:
        child.reap()
        if child.exit_code is not None:
            return None
        ready, _, _ = select.select([sys.stdin.fileno(), wakeup], [], [], 1.0)
        if wakeup in ready and stop_signals & set(os.read(wakeup, 1024)):
            return b""
        if sys.stdin.fileno() in ready:
            return os.read(sys.stdin.fileno(), 1024).strip()


def catch_signals() -> int:
    """Turn signals into bytes on a pipe; return its reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def last_word(folder: Path) -> int | None:
    """Return the code in the folder's exit.json, or None where the stage left none."""
    try:
        return int(json.loads((folder / "exit.json").read_text())["code"])
    except (OSError, ValueError, KeyError):
        return None


def main(folder: Path, command: list[str], *, urge_seconds: float = GRACE_SECONDS) -> int:
    """Run `command` until it ends or is to stop, leave no process of it, and return the exit code."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup = catch_signals()
    child = Child(command)
    word = wait(child, wakeup)
    if word == STALL:
        dump_stacks()
    stop_all(child.reap, urge_seconds=urge_seconds)
    code = last_word(folder)
    return code if code is not None else (child.exit_code or 0)


def main_from_arguments(arguments: list[str]) -> int:
    """Run `[--urge SECONDS] FOLDER COMMAND...`."""
    if arguments[0] == "--urge":
        return main(Path(arguments[2]), arguments[3:], urge_seconds=float(arguments[1]))
    return main(Path(arguments[0]), arguments[1:])


if __name__ == "__main__":
    sys.exit(main_from_arguments(sys.argv[1:]))
