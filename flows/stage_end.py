"""What the end of a stage's process means: a result, something the user can fix, or a failure worth another try."""

import re
import signal
from pathlib import Path

from nanochat_core.artifacts import read_json
from nanochat_core.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED, NanochatError, StageFailed

LAST_LINES = 8
TORCHRUN_NOTE = re.compile(r"^[EWI]\d{4} \d\d:\d\d:\d\d")
TORCHRUN_ERROR = re.compile(r"^E\d{4} \d\d:\d\d:\d\d")
KILLED = (signal.SIGKILL, signal.SIGTERM)  # by the kernel for want of memory, by an administrator, with the machine
KILLED_RANK = re.compile(r"exitcode\s*:\s*-(\d+)")  # in torchrun's account of a failure
LOST_NODE = re.compile(
    r"RendezvousConnectionError|RendezvousTimeoutError|RendezvousClosedError|Connection closed by peer"
    r"|Connection reset by peer|Watchdog caught collective operation timeout|DistNetworkError|DistStoreError"
)


def check_end(name: str, folder: Path, code: int, *, log_start: int, stall_minutes: float | None) -> None:
    """Return where the stage `name` in `folder` is done; raise what its end means otherwise.

    `code` is the guard's exit code, `log_start` where this attempt begins in log.txt (bytes), `stall_minutes` the limit
    where it was stopped for writing no metric. Raises NanochatError for bad input and StageFailed for all else.
    """
    log = folder / "log.txt"
    if stall_minutes is not None:
        raise StageFailed(
            f"{name} wrote no metric for {stall_minutes:g} minutes and was stopped; the stacks of its processes are "
            f"in {log}. The same command continues it; runtime.stall_minutes sets the limit.",
            is_transient=True,
        )
    if (folder / "exit.json").exists():
        message = f"{name}: {read_json(folder / 'exit.json')['message']}"
        if code == EXIT_BAD_INPUT:
            raise NanochatError(message)
        again = " The same command continues it." if code == EXIT_PREEMPTED else ""
        raise StageFailed(message + again, code, is_transient=code == EXIT_PREEMPTED)
    if code != 0 or not (folder / "result.json").exists():
        text = log_text(log, log_start)
        raise StageFailed(
            f"{name} crashed ({how_it_ended(code, text)}). The last lines of {log}:\n{last_lines(text)}\n"
            "The same command continues it from its last checkpoint.",
            code or 1,
            is_transient=was_lost(code, text),
        )


def was_lost(code: int, log: str) -> bool:
    """Tell whether a crash came from outside: a signal that stopped torchrun or a rank, or a node that went away.

    >>> was_lost(137, ""), was_lost(1, "  exitcode  : -9 (pid: 4711)"), was_lost(1, "  exitcode  : 1 (pid: 4711)")
    (True, True, False)
    """
    return killed_by(code, log) is not None or bool(LOST_NODE.search(log))


def killed_by(code: int, log: str) -> signal.Signals | None:
    """Return the signal from outside that ended torchrun (128 + signal) or one of its ranks, if any did."""
    numbers = [code - 128, *(int(number) for number in KILLED_RANK.findall(log))]
    return next((number for number in KILLED if number in numbers), None)


def how_it_ended(code: int, log: str) -> str:
    """Return a few words on a crash.

    >>> how_it_ended(1, "exitcode : -9 (pid: 4711)"), how_it_ended(3, "")
    ('a process was killed by SIGKILL', 'exit code 3')
    """
    number = killed_by(code, log)
    return f"a process was killed by {number.name}" if number else f"exit code {code}"


def log_text(log: Path, start: int) -> str:
    """Return the log from byte `start` on, without the line that says what was started."""
    with open(log, "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").partition("\n")[2]


def last_lines(text: str) -> str:
    """Return the last lines of a stage's output: those of its ranks, without torchrun's own account of the failure."""
    lines = [line for line in text.splitlines() if line.strip()]
    of_ranks = [line for line in lines if line.startswith("[rank ")]
    report = next((i for i, line in enumerate(lines) if TORCHRUN_ERROR.match(line)), len(lines))
    others = [line for line in lines[:report] if not TORCHRUN_NOTE.match(line)]
    return "\n".join(f"  {line}" for line in (of_ranks or others)[-LAST_LINES:])
