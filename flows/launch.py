"""The one place where flows start processes: stages (through the guard), the terminal chat, git.

A stage's stdout and stderr go straight into its log.txt, so it never waits for a reader; this process follows that file
and metrics.jsonl while the stage runs.
"""

import functools
import json
import logging
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from flows import rendezvous
from flows.guard import STALL
from flows.stage_end import check_end
from nanochat_core.errors import NanochatError
from nanochat_core.hardware import usable_cores, visible_gpus
from nanochat_core.inference.openai_api import API_KEY
from nanochat_core.specs import LaunchSpec

Guard: TypeAlias = "subprocess.Popen[bytes]"
PROJECT = Path(__file__).parent.parent
POLL_SECONDS = 0.5
RANK_LOGS = "ranks"  # below the stage's folder
SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "CREDENTIALS", "KEY", "AUTH"}
HUB_TOKENS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"}


class FollowedFile:
    """A text file that grows: `new_lines` returns the whole lines since the last call."""

    def __init__(self, path: Path, *, is_whole: bool = False) -> None:
        """Begin at the file's present end, or with `is_whole` at its start."""
        self.path = path
        self._offset = path.stat().st_size if path.exists() and not is_whole else 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


class FollowedNodes:
    """The logs of the other machines, one file each, below a stage's folder (flows/multinode.py)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {path: FollowedFile(path) for path in self._paths()}

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{rendezvous.NODES}/*/log.txt"))

    def new_lines(self) -> list[str]:
        for path in self._paths():
            self._files.setdefault(path, FollowedFile(path, is_whole=True))
        return [line for file in self._files.values() for line in file.new_lines()]


@dataclass(frozen=True)
class StageProcess:
    """How to run one stage: `python -m module folder/spec.json`, under torchrun or not."""

    name: str
    module: str
    folder: Path
    launch: LaunchSpec
    uses_torchrun: bool = False
    keeps_hub_token: bool = False
    keeps_api_key: bool = False  # of an endpoint that it asks
    stall_minutes: float | None = None
    attempt: str = field(default_factory=rendezvous.new_attempt)  # keeps this try apart from those before it

    @property
    def base(self) -> Path:
        return self.folder.parents[2]

    @property
    def num_ranks(self) -> int:
        """Ranks on this node: as asked, else one for each GPU, else one."""
        if not self.uses_torchrun:
            return 1
        gpus = len(visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))) if self.launch.device in (None, "cuda") else 0
        return self.launch.nproc_per_node or gpus or 1

    @property
    def command(self) -> list[str]:
        if not self.uses_torchrun:
            return [sys.executable, *self.stage_arguments]
        return self.torchrun(self.folder / RANK_LOGS)

    @property
    def stage_arguments(self) -> list[str]:
        return ["-m", self.module, str(self.folder / "spec.json")]

    def torchrun(self, logs: Path, *, node: str | None = None) -> list[str]:
        """Return the command of torchrun's agent on this machine: the head, else `node` (flows/multinode.py)."""
        is_local = self.launch.mode == "local"
        meeting = f"{self.folder.name}-{self.attempt}"
        return [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={self.num_ranks}"),
            *("--tee=3", f"--log-dir={logs}"),  # each rank's own lines, and all of them in log.txt
            *(["--standalone"] if is_local else rendezvous.torchrun_options(self.launch, meeting, node)),
            *self.stage_arguments,
        ]

    @property
    def announcement(self) -> rendezvous.Announcement | None:
        """What the other machines are told, or None where there are no others."""
        if not self.uses_torchrun or self.launch.mode == "local":
            return None
        return rendezvous.Announcement(
            attempt=self.attempt,
            stage=self.name,
            module=self.module,
            folder=f"{self.folder.parent.name}/{self.folder.name}",
            launch=self.launch,
            code=rendezvous.code_of_ranks(PROJECT),
        )

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment without trackers, schedulers and secrets that a stage does not need."""
        return process_environment(
            self.base,
            threads=self.launch.threads_per_rank or max(1, usable_cores() // self.num_ranks),
            device=self.launch.device,
            keep=(HUB_TOKENS if self.keeps_hub_token else set()) | ({API_KEY} if self.keeps_api_key else set()),
        )

    def run(
        self,
        on_metrics: Callable[[list[dict[str, Any]]], None],
        logger: "logging.Logger | logging.LoggerAdapter[logging.Logger]",
        *,
        held_locks: Sequence[int] = (),
    ) -> None:
        """Run the stage to its end; returns where it left a result. `on_metrics` gets the new lines of metrics.jsonl.

        Raises NanochatError for bad input and StageFailed for all else (pre-empted, crashed, stalled). The guard
        inherits the descriptors `held_locks`, so these locks are held until the last process is gone.
        """
        for name in ("result.json", "exit.json"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / RANK_LOGS, ignore_errors=True)
        log, metrics = FollowedFile(self.folder / "log.txt"), FollowedFile(self.folder / "metrics.jsonl")
        log_start = log.path.stat().st_size if log.path.exists() else 0
        nodes = FollowedNodes(self.folder)
        has_stalled = False
        with (
            rendezvous.announced(self.base, self.announcement) as meeting,
            guarded(self.command, self.folder, environment=self.environment, held_locks=held_locks) as guard,
        ):
            last_metric = time.monotonic()
            for is_last_look in looks(guard):
                for line in log.new_lines() + (nodes.new_lines() if meeting else []):
                    logger.info("%s", line[:2000])
                if lines := [json.loads(line) for line in metrics.new_lines()]:
                    last_metric = time.monotonic()
                    on_metrics(lines)
                if meeting and not meeting.is_complete_after_look():
                    last_metric = time.monotonic()  # waiting for other machines is no stall
                seconds = time.monotonic() - last_metric
                if self.stall_minutes and seconds > 60 * self.stall_minutes and not (has_stalled or is_last_look):
                    has_stalled = True
                    send(guard, STALL)
                    if meeting:
                        meeting.tell_stall()
            if meeting and not has_stalled:
                meeting.check_end(guard.returncode)
        stall_minutes = self.stall_minutes if has_stalled else None
        check_end(self.name, self.folder, guard.returncode, log_start=log_start, stall_minutes=stall_minutes)


def process_environment(
    base: Path, *, threads: int, device: str | None, keep: Collection[str] = frozenset(), answers: bool = False
) -> dict[str, str]:
    """Return this process's environment without trackers, schedulers and secrets (but those in `keep`), as a process
    that computes needs it. `answers`: it decodes, in steps so small that waking a thread costs as much as one."""
    environment = {name: value for name, value in os.environ.items() if name in keep or not is_private(name)}
    environment |= {
        "NANOCHAT_BASE_DIR": str(base),
        "OMP_NUM_THREADS": str(threads),
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "1"),  # large pages under large tensors
        "PYTHONFAULTHANDLER": "1",  # stacks on a crash, and when the guard asks for them
        "PYTHONPATH": search_path(),
        "PYTHONSAFEPATH": "1",  # the working folder holds data, not modules
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
    }
    if not answers:
        # Threads that wait sleep, soon: spinning for long, they take the cores from each other once something else
        # runs there. docs/experiments.md has the numbers.
        environment["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
        environment["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", "1000")
    return environment | ({"NANOCHAT_DEVICE": device} if device else {})


def is_private(name: str) -> bool:
    """Tell whether an environment variable is not a stage's business.

    >>> [is_private(name) for name in ("MLFLOW_RUN_ID", "AWS_SECRET_ACCESS_KEY", "TOKENIZERS_PARALLELISM", "HF_HOME")]
    [True, True, False, False]
    """
    return name.startswith(("MLFLOW_", "PREFECT_")) or bool(SECRET_WORDS & set(name.upper().split("_")))


def search_path() -> str:
    """Return a PYTHONPATH on which the guard finds this project, from whatever folder it is started."""
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])


def start_guard(
    command: list[str],
    folder: Path,
    *,
    environment: dict[str, str],
    held_locks: Sequence[int] = (),
    urge_seconds: float | None = None,
) -> "subprocess.Popen[bytes]":
    """Start `command` under a guard, its output at the end of `folder`/log.txt; it ends when the guard's stdin does."""
    options = [] if urge_seconds is None else ["--urge", str(urge_seconds)]
    with open(folder / "log.txt", "ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "flows.guard", *options, str(folder), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            pass_fds=tuple(held_locks),
            start_new_session=True,  # Ctrl-C reaches us alone, and through the pipe the guard stops all in order
        )


@contextmanager
def guarded(
    command: list[str],
    folder: Path,
    *,
    environment: dict[str, str],
    held_locks: Sequence[int],
    urge_seconds: float | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `command` under a guard for the length of the block; on leaving it, wait until all of it is gone."""
    guard = start_guard(command, folder, environment=environment, held_locks=held_locks, urge_seconds=urge_seconds)
    assert guard.stdin is not None
    try:
        yield guard
    finally:
        guard.stdin.close()
        guard.wait()


def start_companion(arguments: list[str], folder: Path, *, environment: dict[str, str]) -> Callable[[], bool]:
    """Run `python arguments` until this process ends, however that is; return a function that tells if it runs."""
    guard = start_guard([sys.executable, *arguments], folder, environment=environment | {"PYTHONPATH": search_path()})
    return lambda: guard.poll() is None


def start_supervisor(configuration: Path, *, environment: dict[str, str]) -> None:
    """Start supervisord in the background, with the programs of its configuration. Raises NanochatError."""
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
    done = subprocess.run(
        command,
        env=os.environ | environment | {"PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise NanochatError(f"supervisord did not start: {done.stdout.strip()[-500:]}")


def deploy_all(folder: Path, *, environment: dict[str, str]) -> None:
    """Register the deployments of prefect.yaml; Prefect's output goes to `folder`/deploy.log. Raises NanochatError."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    with open(folder / "deploy.log", "wb") as log:
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if done.returncode != 0:
        raise NanochatError(f"The deployments were not registered: {folder / 'deploy.log'} says why.")


def looks(guard: "subprocess.Popen[bytes]", seconds: float = POLL_SECONDS) -> Iterator[bool]:
    """Yield False every so many seconds while the guard runs, and True once, as soon as it has ended."""
    assert guard.stdin is not None
    end = select.poll()
    end.register(guard.stdin, 0)  # an error, which is reported in any case: nobody holds the other end of the pipe
    while guard.poll() is None:
        if end.poll(1000 * seconds):
            guard.wait()
        else:
            yield False
    yield True


def send(guard: "subprocess.Popen[bytes]", word: bytes) -> None:
    assert guard.stdin is not None
    guard.stdin.write(word + b"\n")
    guard.stdin.flush()


def become(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Replace this process by `python -m module arguments`, which then owns the terminal. Does not return."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], os.environ | dict(environment or {}))


def call(module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module arguments` in this terminal to its end; return its exit code."""
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", module, *arguments]).returncode


def ask(module: str, *, seconds: float) -> str:
    """Run `python -m module` and return what it prints; raises NanochatError, with its last words, where it fails."""
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise NanochatError(f"{module} does not run: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise NanochatError(f"{module} fails: {last[:300]}")
    return done.stdout


def ask_nvidia(*fields: str) -> list[list[str]]:
    """Return the values of nvidia-smi's query fields, a row for each GPU of the machine.

    Raises NanochatError, with nvidia-smi's own words, where it is not there, fails, or hangs.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise NanochatError(f"nvidia-smi does not run: {error}") from None
    if done.returncode != 0:
        raise NanochatError(f"nvidia-smi fails: {' '.join((done.stdout + done.stderr).split())[:200]}")
    return [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


@functools.cache
def git_commit() -> str | None:
    """Return the short commit of this project, with "-dirty" for uncommitted changes; None outside of git."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
