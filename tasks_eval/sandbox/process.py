"""Start a sandboxed process, read what it prints within its limits, and end it with all that it started."""

import contextlib
import functools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from nanochat_core.errors import NanochatError
from tasks_eval.sandbox.inside.kernel import hide_from_own_user
from tasks_eval.sandbox.inside.namespaces import WORK
from tasks_eval.sandbox.inside.readable import DEVICES, readable_paths
from tasks_eval.sandbox.inside.request import BUBBLEWRAP, RLIMITS, Request

ROOT = Path(__file__).parents[2]
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from tasks_eval.sandbox.inside.start import main; main()"
PROGRAM_BYTES = 1 << 20  # a longer program is not run
STATUS_BYTES = 1 << 12
FOLDER_PREFIX = "nanochat-sandbox-"
LEFT_AFTER_SECONDS = 3600.0  # no program runs that long
CHUNK = 1 << 14

Status = Literal["exited", "timeout", "too much output", "too long to run"]


class SandboxBroken(NanochatError):
    """A level that this machine does not grant, or not now. `reason` is what its process said."""

    def __init__(self, level: str, reason: str) -> None:
        super().__init__(
            f"The sandbox {level!r} could not be built: {reason.rstrip('.')}. See what `nanochat doctor` says of it, "
            "and try again when the machine has memory and processes to spare."
        )
        self.reason = reason


@contextlib.contextmanager
def broken_without_resources(level: str) -> Iterator[None]:
    """Raise SandboxBroken where the machine has no descriptors, processes or room left."""
    try:
        yield
    except OSError as error:
        raise SandboxBroken(level, str(error)) from None


@functools.cache
def remove_left_folders(parent: str) -> None:
    """Remove the empty folders of programs whose evaluator was killed, once in a process's life."""
    for folder in Path(parent).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone
            if time.time() - folder.stat().st_mtime > LEFT_AFTER_SECONDS:
                folder.rmdir()


@dataclass(frozen=True)
class Limits:
    """What a program may use. file_bytes: all files together; none but with a file system that bounds their number."""

    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    wall_seconds: float = 20.0  # far above the CPU time, so that a busy machine does not change a verdict
    output_bytes: int = 64 << 10


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `output` is the beginning of its stdout and stderr, `level` the isolation it had."""

    status: Status
    returncode: int | None
    output: str
    level: str


class Jailed:
    """A process behind the walls of a level. As a context manager: at its end nothing of it is left."""

    def __init__(self, role: str, level: str, limits: Limits, options: dict[str, Any], pipes: Sequence[int]) -> None:
        self.level, self.limits, self.output, self.printed_bytes = level, limits, b"", 0
        if level == RLIMITS and sys.platform.startswith("linux") and os.geteuid() != 0:
            hide_from_own_user()  # for good: as this user the program could read here what the tests expect
        bounds = {
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
        }
        parent = 0 if level == BUBBLEWRAP else os.getpid()
        with broken_without_resources(level), contextlib.ExitStack() as kept, contextlib.ExitStack() as given:
            remove_left_folders(tempfile.gettempdir())
            folder = kept.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True))
            self._status, status = os.pipe()
            kept.callback(os.close, self._status)
            given.callback(os.close, status)
            request = Request(role, level, parent, status, folder, **bounds, pipes=pipes, options=options)
            file = given.enter_context(tempfile.TemporaryFile())
            file.write(json.dumps(request._asdict()).encode())
            file.seek(0)
            self.process = subprocess.Popen(
                command_at(level),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},  # sets in the same order in each run
                start_new_session=True,
                pass_fds=(status, *pipes),
            )
            assert self.process.stdout is not None
            self.stdout = kept.enter_context(self.process.stdout)
            self._kept = kept.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and left nobody behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._kept.close()

    def read(self) -> bool:
        """Read some of what the process printed; False: it has closed its output."""
        chunk = os.read(self.stdout.fileno(), CHUNK)
        self.output += chunk[: self.limits.output_bytes - len(self.output)]
        self.printed_bytes += len(chunk)
        return bool(chunk)

    def said(self) -> bytes:
        """Return what an ended process said on its status pipe; raises SandboxBroken where its walls never stood."""
        os.set_blocking(self._status, False)
        try:
            words = os.read(self._status, STATUS_BYTES)
        except BlockingIOError:
            words = b""
        ready, _, rest = words.partition(b"\n")
        if ready != b"ready":
            lines = self.output.decode(errors="replace").strip().splitlines()
            raise SandboxBroken(self.level, lines[-1] if lines else "its process ended without a word")
        return rest

    def returncode(self) -> int | None:
        """Return how an ended process ended, negative for a signal."""
        code = self.process.returncode
        is_signal = self.level == BUBBLEWRAP and code is not None and 128 < code < 128 + signal.NSIG
        return 128 - code if is_signal else code


def supervise(main: Jailed, *others: Jailed, dropped_bytes: int = 0) -> Status:
    """Read from all until `main` has ended, or one exceeds a limit. The caller ends them.

    dropped_bytes: of output above the limit that do no harm.
    `said` of a process that was timed out is not asked: its walls may still be under construction.
    """
    deadline = time.monotonic() + main.limits.wall_seconds
    with selectors.PollSelector() as selector:  # which takes no descriptor
        for process in (main, *others):
            selector.register(process.stdout, selectors.EVENT_READ, process)
        while main.stdout in {key.fileobj for key in selector.get_map().values()}:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return "timeout"
            for key, _ in ready:
                if not key.data.read():
                    selector.unregister(key.fileobj)
                elif key.data.printed_bytes > key.data.limits.output_bytes + dropped_bytes:
                    return "too much output"
    try:
        main.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "timeout"
    return "exited"


def run_at(level: str, source: str, limits: Limits, *, role: Literal["program", "cell"] = "program") -> Outcome:
    """Run a program at a level and return how it ended. Raises SandboxBroken where the level is not to be had."""
    if is_too_long(source):
        return Outcome("too long to run", None, "", level)
    with Jailed(role, level, limits, {"source": source}, ()) as process:
        status = supervise(process)
        if status == "exited":
            process.said()
        returncode = process.returncode() if status == "exited" else None
        text = process.output.decode(errors="replace")
    return Outcome(status, returncode, text, level)


def is_too_long(source: str) -> bool:
    return len(source) > PROGRAM_BYTES or len(source.encode(errors="replace")) > PROGRAM_BYTES


def command_at(level: str) -> list[str]:
    """Return the command line of a sandboxed process: this Python without its packages."""
    executable = os.path.realpath(sys.executable)
    python = [executable, "-P", "-s", "-S", "-X", "utf8", "-c", BOOT, str(ROOT)]
    return [*bubblewrap(executable), *python] if level == BUBBLEWRAP else python


def bubblewrap(executable: str) -> list[str]:
    """Return what to put before a command (man 1 bwrap); raises SandboxBroken where the program is not installed.

    Nothing can be written: bwrap bounds the bytes of a file system and not its files, of which a million empty ones
    take 1 GB of the kernel's memory.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxBroken(BUBBLEWRAP, "the program bwrap is not installed")
    package = ROOT / "tasks_eval"
    ours = [package / "__init__.py", package / "sandbox" / "__init__.py", package / "sandbox" / "inside"]
    shown = [*readable_paths(), executable, *map(str, ours)]
    binds = [word for path in shown for word in ("--ro-bind", path, path)]
    binds += [word for path in DEVICES for word in ("--dev-bind", path, path)]
    work = ["--dir", WORK, "--remount-ro", "/", "--chdir", WORK]
    return [program, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", *binds, *work, "--"]
