"""`nanochat join`: a machine that trains along with the head, which runs the flow (flows/rendezvous.py).

It waits for the head's announcements and runs its own torchrun agent for each, under the guard. A node keeps nothing
and decides nothing: when its agent ends, or the head falls silent, all its processes end, and the next attempt of the
head is joined like the first.

    $NANOCHAT_BASE_DIR/artifacts/<stage>/<fingerprint>/nodes/NAME/    log.txt of this node, and of each of its ranks
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from flows import launch, rendezvous
from flows.guard import STALL
from flows.launch import StageProcess
from flows.rendezvous import Announcement, Beat, Note, Pulse
from flows.stage_end import last_lines, log_text, was_lost
from nanochat_core.errors import NanochatError

POLL_SECONDS = 0.5

Tell = Callable[[str], None]


def join(base: Path, *, idle_minutes: float | None, tell: Tell) -> None:
    """Take part in every stage that a head announces in `base`; returns after `idle_minutes` without one.

    Without `idle_minutes` it waits for ever. SIGTERM and Ctrl-C raise KeyboardInterrupt, after every process has ended.
    Raises NanochatError where another version of nanochat writes the announcements.
    """
    node = node_name()
    rendezvous.notes_folder(base).mkdir(parents=True, exist_ok=True)
    tell(f"Node {node} waits for announcements in {rendezvous.folder(base)}.")
    with interrupted_by_sigterm():
        for announcement in announcements(base, None if idle_minutes is None else 60 * idle_minutes):
            take_part(base, announcement, node, tell)
    tell(f"Nothing was announced for {idle_minutes:g} minutes: done.")


def node_name() -> str:
    """Return a name that no other node has: two may run on one machine."""
    return f"{socket.gethostname()}-{os.getpid()}"


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt for the length of the block, so that a scheduler stops us as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def announcements(base: Path, idle_seconds: float | None) -> Iterator[Announcement]:
    """Yield each new attempt of a living head; end where there was none for `idle_seconds`.

    An announcement that is there already at the start may be that of a head which died: it counts once it is renewed.
    """
    path = rendezvous.announcement_file(base)
    found = rendezvous.read(Announcement, path)
    known, first_beat = (found.attempt, found.beat) if found else ("", 0)
    idle_since = time.monotonic()
    while idle_seconds is None or time.monotonic() - idle_since < idle_seconds:
        found = rendezvous.read(Announcement, path)
        if found and (found.attempt != known or (first_beat and found.beat != first_beat)):
            known, first_beat = found.attempt, 0
            yield found
            idle_since = time.monotonic()
        time.sleep(POLL_SECONDS)


def take_part(base: Path, announcement: Announcement, node: str, tell: Tell) -> None:
    """Run this node's agent until it ends, or the head has withdrawn the announcement or is gone."""
    note, beat = Note(attempt=announcement.attempt, node=node), Beat(note_file(base, node))
    if problems := announcement.problems(base, rendezvous.code_of_ranks(launch.PROJECT)):
        tell(f"{announcement.stage}: refused: {'; '.join(problems)}")
        refusal = {"exit_code": NanochatError.exit_code, "is_transient": False, "message": "; ".join(problems)}
        beat.write(note.model_copy(update=refusal), is_urgent=True)
        return
    process, folder = stage_process(base, announcement), announcement.path(base) / rendezvous.NODES / node
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    log_start = log.stat().st_size if log.exists() else 0
    tell(f"{announcement.stage}: {process.num_ranks} ranks here; {log}")
    command = process.torchrun(folder / launch.RANK_LOGS, node=node)
    try:
        with launch.guarded(command, folder, environment=process.environment, held_locks=()) as guard:
            follow(base, announcement, guard, lambda: beat.write(note))
    finally:
        beat.write(ended(note, guard.returncode, log_text(log, log_start)), is_urgent=True)
    tell(f"{announcement.stage}: ended here with exit code {guard.returncode}.")


def follow(base: Path, announcement: Announcement, guard: launch.Guard, beat: Callable[[], None]) -> None:
    """Return when the guard has ended, or the head wants no more of this attempt."""
    pulse, looked, has_stalled = Pulse(), 0.0, False
    for _ in launch.looks(guard):
        beat()
        if time.monotonic() - looked < rendezvous.LOOK_SECONDS:
            continue
        looked = time.monotonic()
        now = rendezvous.read(Announcement, rendezvous.announcement_file(base))
        if now is None or now.attempt != announcement.attempt or pulse.silent_seconds(now) > rendezvous.SILENCE_SECONDS:
            return
        if now.is_stalled and not has_stalled:
            has_stalled = True
            launch.send(guard, STALL)


def note_file(base: Path, node: str) -> Path:
    return rendezvous.notes_folder(base) / f"{node}.json"


def stage_process(base: Path, announcement: Announcement) -> StageProcess:
    """Return the stage as the head runs it, in this node's base folder."""
    return StageProcess(
        name=announcement.stage,
        module=announcement.module,
        folder=announcement.path(base),
        launch=announcement.launch,
        uses_torchrun=True,
        attempt=announcement.attempt,
    )


def ended(note: Note, code: int, log: str) -> Note:
    """Return the last word of this node: what the head shows where the cause of a failure lies here."""
    message = last_lines(log) if code else ""
    return note.model_copy(update={"exit_code": code, "is_transient": was_lost(code, log), "message": message})
