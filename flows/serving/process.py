"""One server's process under its guard: how it is started and stopped, where it stands, and what its end means."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flows import launch
from flows.serving.record import STATUS, ServerStatus
from flows.stage_end import last_lines, log_text
from nanochat_core import artifacts
from nanochat_core.errors import EXIT_BAD_INPUT
from nanochat_core.hardware import usable_cores
from nanochat_core.serve_spec import ServeSpec

MODULE = "deployments.serving"
DRAIN_SECONDS = 15.0  # of a server whose run is cancelled: the guard kills after 25 s, Prefect's worker after 30 s
LOG_BYTES = 20_000_000
End = Literal["replaced", "stopped"]


class ServerDown(Exception):
    """A server that does not serve: it ended by itself, did not become ready, or does not answer.

    `is_refusal`: it said what the user can fix. All else is worth another try.
    """

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


@dataclass(frozen=True)
class ServerCommand:
    """How a server is run: its folder, its spec (which is written there), and the locks that its guard holds."""

    folder: Path
    spec: ServeSpec
    base: Path
    device: str | None = None
    held_locks: Sequence[int] = field(default=())

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", MODULE, str(self.folder / "spec.json")]

    @property
    def status_file(self) -> Path:
        return self.folder / STATUS

    @contextmanager
    def started(self) -> Iterator["ServerProcess"]:
        """Run it for the length of the block; on leaving, running answers have DRAIN_SECONDS to finish."""
        spec = self.spec.model_copy(update={"status_file": str(self.status_file)})
        artifacts.write_json(self.folder / "spec.json", spec.model_dump(mode="json"))
        self.status_file.unlink(missing_ok=True)
        log = self.folder / "log.txt"
        start = log.stat().st_size if log.exists() else 0
        threads = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
        environment = launch.process_environment(self.base, threads=threads, device=self.device, answers=True)
        with launch.guarded(
            self.command,
            self.folder,
            environment=environment,
            held_locks=self.held_locks,
            urge_seconds=DRAIN_SECONDS,
        ) as guard:
            yield ServerProcess(guard, log, self.status_file, start)


@dataclass
class ServerProcess:
    """A server that was started. `log_start`: where its own lines begin in the log, in bytes."""

    guard: launch.Guard
    log: Path
    status_file: Path
    log_start: int

    def looks(self, seconds: float) -> Iterator[None]:
        """Yield every so many seconds until the process has ended."""
        for is_last in launch.looks(self.guard, seconds):
            if is_last:
                return
            self.keep_log_small()
            yield

    @property
    def status(self) -> ServerStatus | None:
        return ServerStatus.read(self.status_file)

    @property
    def state(self) -> str:
        return self.status.state if self.status else "loading"

    @property
    def last_lines(self) -> str:
        return last_lines(log_text(self.log, self.log_start))

    def stop(self) -> None:
        """Have it end, as at the end of the block."""
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait()

    def end(self) -> End:
        """Return how the process, which is gone, has ended in order: a newer server took its place, or somebody outside
        stopped it. Raises ServerDown for all else.

        Who was told to leave while it drained is not started again, whatever became of it: its port may be another's.
        """
        code, status = self.guard.returncode, self.status
        if status and status.state in ("replaced", "stopped", "draining"):
            return "replaced" if status.state == "replaced" else "stopped"
        error = status.error if status and status.error else next(iter(self.last_lines.splitlines()[-1:]), "")
        words = f"{error.strip().rstrip('.') or 'it said nothing'}."
        if code == EXIT_BAD_INPUT:
            raise ServerDown(f"The server refuses to start: {words}", is_refusal=True)
        raise ServerDown(f"The server ended by itself (exit code {code}): {words}")

    def keep_log_small(self) -> None:
        """Move a log that has grown beyond LOG_BYTES to log.1.txt. The server appends, so it goes on at its start."""
        if self.log.stat().st_size > LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_name("log.1.txt"))
            os.truncate(self.log, 0)
            self.log_start = 0
