"""How the machines of one training find each other, through files on the disk that they share.

    $NANOCHAT_BASE_DIR/multinode/announcement.json    the head: what starts now (flows/launch.py)
    $NANOCHAT_BASE_DIR/multinode/nodes/NAME.json      every other node: what became of it there (flows/multinode.py)

Their torchrun agents then meet at launch.rdzv_endpoint (c10d). Each try to run a stage is an attempt with a name of its
own, so that nobody joins an old one. Who writes a file writes it again every BEAT_SECONDS; who is silent for
SILENCE_SECONDS is gone. The clocks of two machines are never compared.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nanochat_core import artifacts, paths
from nanochat_core.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED, NanochatError, StageFailed
from nanochat_core.specs import LaunchSpec

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 60.0  # a network file system may show a file of another machine as it was up to half a minute ago
JOIN_SECONDS = 600  # how long torchrun's agents wait for each other
LOOK_SECONDS = 1.0
END_SECONDS = 15.0  # where one node is lost, the others notice by themselves in this time, or are stopped
LAST_IN_ORDER = "~"  # behind every letter: torchrun sorts its nodes by name, and the first has rank 0
NODES = "nodes"  # below a stage's folder: what each of the other machines printed
MODULES = re.compile(r"(nanochat_core\.stages|tasks_eval)(\.[a-z_]+)+")

T = TypeVar("T", bound="Message")


class Message(BaseModel):
    """What both kinds of file hold. `beat` grows while its writer lives."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    attempt: str
    beat: int = 0


class Announcement(Message):
    """What the head starts. `folder` is relative to the folder of all artifacts; `code` is that of `code_of_ranks`."""

    stage: str
    module: str
    folder: str
    launch: LaunchSpec
    code: str
    is_stalled: bool = False  # no new metric for too long: every node is to dump its stacks

    def problems(self, base: Path, code: str) -> list[str]:
        """Return why a node with this base folder and this code must not take part; nothing is run unchecked."""
        found = []
        if not MODULES.fullmatch(self.module):
            found.append(f"{self.module!r} is no stage")
        if not self.path(base).is_relative_to(paths.artifacts_dir(base)) or ".." in Path(self.folder).parts:
            found.append(f"{self.folder!r} is no artifact")
        elif not (self.path(base) / "spec.json").is_file():
            found.append(f"{self.path(base)} has no spec.json: NANOCHAT_BASE_DIR must be the same folder on all nodes")
        if self.code != code:
            found.append("its nanochat_core or tasks_eval differs from the head's: install the same version on all")
        return found

    def path(self, base: Path) -> Path:
        return paths.artifacts_dir(base) / self.folder


class Note(Message):
    """What became of an attempt on one node: it runs while `exit_code` is None. `is_transient`: as in StageFailed."""

    node: str
    exit_code: int | None = None
    is_transient: bool = True
    message: str = ""


def folder(base: Path) -> Path:
    return base / "multinode"


def announcement_file(base: Path) -> Path:
    return folder(base) / "announcement.json"


def notes_folder(base: Path) -> Path:
    return folder(base) / "nodes"


def new_attempt() -> str:
    """Return a name that no other attempt has."""
    return secrets.token_hex(4)


def code_of_ranks(project: Path) -> str:
    """Return a short hash of the sources that ranks run: as they are now, for each attempt starts them anew."""
    found = hashlib.sha256()
    for path in sorted(
        path for package in ("nanochat_core", "tasks_eval") for path in (project / package).rglob("*.py")
    ):
        found.update(path.relative_to(project).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def torchrun_options(launch: LaunchSpec, rendezvous_id: str, node: str | None) -> list[str]:
    """Return what torchrun needs to know of the other machines; `node` is this one's name, None on the head.

    The head holds the store that all meet at, whatever its host name resolves to, and has rank 0: so that result,
    metrics and checkpoints are written by the machine that reads them.
    """
    endpoint = launch.rdzv_endpoint or ""
    address = endpoint.rpartition(":")[0] if node is None else f"{LAST_IN_ORDER}{node}"
    return [
        f"--nnodes={launch.nnodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={rendezvous_id}",
        f"--rdzv-conf=is_host={int(node is None)},join_timeout={JOIN_SECONDS}",
        f"--local-addr={address}",
    ]


def read(kind: type[T], path: Path) -> T | None:
    """Return the message in a file, or None where there is none. Raises NanochatError for what is not one."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError:  # absent, or replaced by another machine at this moment
        return None
    except ValidationError:
        raise NanochatError(
            f"{path} is not what this version of nanochat writes: install the same version on all nodes."
        ) from None


class Beat:
    """Writes a message again every BEAT_SECONDS, if `write` is called often."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._written = 0.0

    def write(self, message: Message, *, is_urgent: bool = False) -> None:
        if is_urgent or time.monotonic() - self._written > BEAT_SECONDS:
            self._count += 1
            artifacts.write_json(self._path, message.model_copy(update={"beat": self._count}).model_dump(mode="json"))
            self._written = time.monotonic()


class Pulse:
    """Tells how long the writer of a message has been silent."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None
        self._changed = time.monotonic()

    def silent_seconds(self, message: Message) -> float:
        """Return the seconds since the message was another one; of the first there is, since it was first seen."""
        if (message.attempt, message.beat) != self._last:
            self._last, self._changed = (message.attempt, message.beat), time.monotonic()
        return time.monotonic() - self._changed


class Meeting:
    """The head's side of one attempt: announces it, and watches the other nodes."""

    def __init__(self, base: Path, announcement: Announcement) -> None:
        self._base, self._announcement = base, announcement
        self._beat = Beat(announcement_file(base))
        self._pulses: dict[str, Pulse] = {}
        self._lost_since: float | None = None
        self._started = self._looked = time.monotonic()
        self._missing = announcement.launch.nnodes - 1

    def open(self) -> None:
        notes_folder(self._base).mkdir(parents=True, exist_ok=True)
        for path in notes_folder(self._base).glob("*.json"):
            path.unlink(missing_ok=True)  # of earlier attempts
        self._beat.write(self._announcement, is_urgent=True)

    def close(self) -> None:
        announcement_file(self._base).unlink(missing_ok=True)

    def notes(self) -> list[Note]:
        """Return what the nodes say of this attempt."""
        found = [read(Note, path) for path in sorted(notes_folder(self._base).glob("*.json"))]
        return [note for note in found if note and note.attempt == self._announcement.attempt]

    def is_complete_after_look(self) -> bool:
        """Say that the head lives, look after the other nodes now and then, and tell whether all have come.

        Raises StageFailed where a node is lost and the processes here did not notice.
        """
        self._beat.write(self._announcement)
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        return self._missing == 0

    def tell_stall(self) -> None:
        """Have every node dump the stacks of its ranks."""
        self._announcement = self._announcement.model_copy(update={"is_stalled": True})
        self._beat.write(self._announcement, is_urgent=True)

    def _look(self) -> None:
        notes = self.notes()
        self._missing = max(0, self._announcement.launch.nnodes - 1 - len(notes))
        for note in notes:
            silent = self._pulses.setdefault(note.node, Pulse()).silent_seconds(note)
            if note.exit_code is None and silent > SILENCE_SECONDS:
                raise self._failure(f"node {note.node} has been silent for {silent:.0f} s", is_transient=True)
            if note.exit_code and not self._has_last_word:
                self._lost_since = self._lost_since or time.monotonic()
                if time.monotonic() - self._lost_since > END_SECONDS:
                    raise self._failure(said(note), is_transient=note.is_transient)
        self._looked = time.monotonic()

    @property
    def _has_last_word(self) -> bool:
        """Whether the ranks have said in a file how the stage ended: then they end by themselves."""
        stage_folder = self._announcement.path(self._base)
        return any((stage_folder / name).exists() for name in ("result.json", "exit.json"))

    def check_end(self, code: int) -> None:
        """After a crash here (exit code `code`), raise StageFailed where another node knows the cause."""
        if code in (0, EXIT_BAD_INPUT, EXIT_PREEMPTED):
            return
        deadline = time.monotonic() + END_SECONDS
        while len(ended := [note for note in self.notes() if note.exit_code is not None]) < len(self.notes()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        for note in ended:
            if note.exit_code and not note.is_transient:
                raise self._failure(said(note), is_transient=False)
        nnodes = self._announcement.launch.nnodes
        if self._missing and time.monotonic() - self._started > JOIN_SECONDS:
            raise self._failure(
                f"{self._missing} of {nnodes} machines did not come within {JOIN_SECONDS} s. Start `nanochat join` on "
                f"each of the others, with NANOCHAT_BASE_DIR on the file system that holds {self._base}",
                is_transient=True,
            )

    def _failure(self, reason: str, *, is_transient: bool) -> StageFailed:
        again = "The same command continues it from its last checkpoint."
        return StageFailed(f"{self._announcement.stage}: {reason}.\n{again}", is_transient=is_transient)


def said(note: Note) -> str:
    """Return what a node wrote down when its part of the stage failed."""
    return f"it ended on node {note.node} (exit code {note.exit_code}):\n{note.message}"


@contextmanager
def announced(base: Path, announcement: Announcement | None) -> Iterator[Meeting | None]:
    """Announce an attempt for the length of the block; with None (a stage of this machine alone), do nothing."""
    if announcement is None:
        yield None
        return
    meeting = Meeting(base, announcement)
    meeting.open()
    try:
        yield meeting
    finally:
        meeting.close()
