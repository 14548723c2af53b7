"""Runs the attacks at a level of isolation, and looks from outside at what came of them. Standard library only.

    python -m tests.tasks_eval.sandbox.attack_run LEVEL [NAME …]

LEVEL may be "rlimits without seccomp", too. Without names: all that the level contains. Prints a line of JSON for each
({"name", "is_passed", "note", "status", "breaches", "seconds"}), and a last one {"memory_growth_mb": of this process,
"largest_child_mb"}. Runs as whoever starts it: the tests do so as root and as somebody without rights.
"""

import contextlib
import json
import os
import resource
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks_eval.sandbox import process
from tasks_eval.sandbox.inside.request import RLIMITS
from tasks_eval.sandbox.process import Limits, run_at
from tasks_eval.sandbox.unit_tests import run_unit_tests
from tests.tasks_eval.sandbox.attack_corpus import BARE, PICK, Attack, attacks

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0)
SECONDS_TO_DIE = 10.0


@dataclass
class World:
    """What is outside of the sandbox, within reach of everybody on this machine."""

    folder: Path
    secret: str = field(default_factory=lambda: f"SECRET-{secrets.token_hex(16)}")
    mark: str = field(default_factory=lambda: f"86399.{secrets.randbelow(10**12):012}")

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.readable, self.writable = self.folder / "secret", self.folder / "canary"
        self.readable.write_text(self.secret)
        self.open_folder = self.folder / "open"
        self.open_folder.mkdir()
        (self.open_folder / "there").touch()
        self.open_folder.chmod(0o777)
        self.writable.write_text("untouched")
        self.writable.chmod(0o666)
        self.as_made = self._look()
        self.stream, self.datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        self.abstract = socket.socket(socket.AF_UNIX)
        self.stream.bind(("127.0.0.1", 0))
        self.port = self.stream.getsockname()[1]
        self.datagrams.bind(("127.0.0.1", self.port))
        self.abstract.bind(f"\0{self.mark}")
        for listener in (self.stream, self.abstract):
            listener.listen()
        for listener in (self.stream, self.datagrams, self.abstract):
            listener.setblocking(False)

    def close(self) -> None:
        for listener in (self.stream, self.datagrams, self.abstract):
            listener.close()

    def prelude(self) -> str:
        """Return the program's first lines: where all this is."""
        names = {"SECRET_FILE": self.readable, "CANARY": self.writable, "FOLDER": self.open_folder, "MARK": self.mark}
        lines = [f"{name} = {str(value)!r}" for name, value in names.items()]
        return "\n".join([*lines, f"PORT = {self.port}", f"UNIX = {self.mark!r}", PICK])

    def breaches(self, output: str) -> list[str]:
        """Return what an attack has done here, or printed."""
        found = ["it says so"] if "BREACH" in output else []
        found += ["read a file"] if self.secret in output else []
        found += ["changed files"] if self._look() != self.as_made else []
        found += ["left shared memory"] if Path(f"/dev/shm/{self.mark}").exists() else []
        found += ["reached the network"] if self._was_reached() else []
        return found + (["left processes"] if not self._are_processes_gone() else [])

    def _look(self) -> list[Any]:
        try:
            told = self.writable.stat()
            return [self.writable.read_text(), told.st_mode, told.st_mtime, sorted(os.listdir(self.open_folder))]
        except OSError as error:
            return [str(error)]

    def _was_reached(self) -> bool:
        for receive in (self.stream.accept, self.abstract.accept, lambda: self.datagrams.recv(1)):
            with contextlib.suppress(BlockingIOError):
                receive()
                return True
        return False

    def _are_processes_gone(self) -> bool:
        """Wait until no process has the mark on its command line."""
        deadline = time.monotonic() + SECONDS_TO_DIE
        while any(self.mark in line for line in command_lines()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def command_lines() -> Iterator[str]:
    """Yield the command lines of all processes but this one."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                yield path.read_text(errors="replace")


def attempt(attack: Attack, level: str, boot: str) -> dict[str, Any]:
    """Run one attack: graded against a test that nobody can pass who has not seen it, and as a program of its own.

    boot: the first program of each process.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nanochat-attack-") as folder:
        world = World(Path(folder))
        process.BOOT = f"{boot}  # {world.mark}"  # a forked child has it on its command line, too
        try:
            code = world.prelude() + attack.code
            test = f"def check(candidate):\n    assert candidate(2) == {world.secret!r}\n    assert candidate(3) != 6\n"
            meta = {"prompt": "", "entry_point": "f", "test": test}
            verdict = run_unit_tests(meta, code, limits=LIMITS, level=level)
            breaches = world.breaches("")
            outcome = run_at(level, f"{code}\n\nprint(f(1))\n", LIMITS)
            breaches += world.breaches(outcome.output)
        finally:
            world.close()
    return {
        "name": attack.name,
        "is_passed": verdict.is_correct,
        "note": verdict.note,
        "status": outcome.status,
        "breaches": sorted(set(breaches)),
        "seconds": round(time.monotonic() - started, 2),
    }


BOOT = process.BOOT
NO_SECCOMP = "from tasks_eval.sandbox.inside import seccomp; seccomp.SECCOMP_SET_MODE_FILTER = 99; "


def main(level: str, *names: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    boot = BOOT.replace("from ", f"{NO_SECCOMP}from ", 1) if level == BARE else BOOT
    for attack in attacks():
        if attack.name in names if names else attack.is_held_at(level):
            print(json.dumps(attempt(attack, RLIMITS if level == BARE else level, boot)), flush=True)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"memory_growth_mb": round(growth, 1), "largest_child_mb": round(largest, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
