"""What the machines of one training tell each other through files, and what they make of silence."""

import time
from pathlib import Path

import pytest

from flows import multinode, rendezvous
from flows.rendezvous import Announcement, Beat, Meeting, Note
from nanochat_core.errors import NanochatError, StageFailed
from nanochat_core.specs import LaunchSpec

LAUNCH = LaunchSpec(mode="multinode", nnodes=2, rdzv_endpoint="head:29500")


def announcement(**changes: object) -> Announcement:
    known = {
        "attempt": "a1",
        "stage": "pretrain",
        "module": "nanochat_core.stages.pretrain",
        "folder": "pretrain/f",
        "launch": LAUNCH,
        "code": "abc",
    }
    return Announcement.model_validate(known | changes)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base folder with a stage's request; all waiting is short."""
    (tmp_path / "artifacts" / "pretrain" / "f").mkdir(parents=True)
    (tmp_path / "artifacts" / "pretrain" / "f" / "spec.json").write_text("{}")
    rendezvous.notes_folder(tmp_path).mkdir(parents=True)
    for name in ("BEAT_SECONDS", "END_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(rendezvous, name, 0.0)
    monkeypatch.setattr(rendezvous, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(multinode, "POLL_SECONDS", 0.0)
    return tmp_path


def write_note(base: Path, **changes: object) -> None:
    note = Note.model_validate({"attempt": "a1", "node": "n1"} | changes)
    Beat(rendezvous.notes_folder(base) / f"{note.node}.json").write(note, is_urgent=True)


def meeting(base: Path) -> Meeting:
    found = Meeting(base, announcement())
    found.open()
    return found


def heard(base: Path, monkeypatch: pytest.MonkeyPatch, *events: Announcement | None) -> list[str]:
    """Return the attempts that a node joins while, look by look, the head writes `events` (None: it withdraws)."""
    beat, pending = Beat(rendezvous.announcement_file(base)), iter(events)

    def next_event(_: float) -> None:
        try:
            event = next(pending)
        except StopIteration:
            return
        if event is None:
            rendezvous.announcement_file(base).unlink()
        else:
            beat.write(event, is_urgent=True)

    monkeypatch.setattr(multinode.time, "sleep", next_event)
    return [found.attempt for found in multinode.announcements(base, idle_seconds=0.1)]


def test_a_node_joins_each_attempt_once(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = announcement(attempt="a1"), announcement(attempt="a2")
    assert heard(shared, monkeypatch, first, first, None, second, second) == ["a1", "a2"]


def test_a_node_that_comes_late_joins_a_head_that_lives_and_no_dead_one(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Beat(rendezvous.announcement_file(shared)).write(announcement(beat=7), is_urgent=True)
    assert heard(shared, monkeypatch) == []
    assert heard(shared, monkeypatch, announcement(), announcement()) == ["a1"]


def test_an_announcement_of_another_version_is_refused_with_its_file(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendezvous.announcement_file(shared).write_text('{"attempt": "a1"}')
    with pytest.raises(NanochatError, match=r"announcement\.json is not what this version of nanochat writes"):
        heard(shared, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "code", "problem"),
    [
        ({"module": "os.system"}, "abc", "'os.system' is no stage"),
        ({"folder": "../../etc"}, "abc", "'../../etc' is no artifact"),
        ({"folder": "/etc"}, "abc", "'/etc' is no artifact"),
        ({"folder": "pretrain/other"}, "abc", "must be the same folder on all nodes"),
        ({}, "def", "nanochat_core or tasks_eval differs from the head's"),
    ],
)
def test_a_node_refuses_what_it_must_not_run_and_the_head_says_why(
    changes: dict[str, str], code: str, problem: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "code_of_ranks", lambda _: code)
    monkeypatch.setattr(multinode.launch, "guarded", None)  # nothing may be started
    head = meeting(shared)
    said: list[str] = []
    multinode.take_part(shared, announcement(**changes), "n1", said.append)
    assert problem in said[0]
    with pytest.raises(StageFailed, match="node n1") as failure:
        head.check_end(1)
    assert problem in str(failure.value) and not failure.value.is_transient


def test_the_head_waits_for_nodes_and_stops_waiting_when_all_have_come(shared: Path) -> None:
    head = meeting(shared)
    assert not head.is_complete_after_look()
    write_note(shared)
    assert head.is_complete_after_look()


def test_old_notes_do_not_count(shared: Path) -> None:
    write_note(shared, node="gone")
    head = meeting(shared)
    write_note(shared, attempt="a0", exit_code=1)
    assert not head.is_complete_after_look()


def test_a_silent_node_is_lost(shared: Path) -> None:
    head = meeting(shared)
    write_note(shared)
    assert head.is_complete_after_look()
    time.sleep(0.15)
    with pytest.raises(StageFailed, match="node n1 has been silent") as failure:
        head.is_complete_after_look()
    assert failure.value.is_transient


def test_a_node_that_failed_fails_the_stage_with_its_own_words(shared: Path) -> None:
    head = meeting(shared)
    write_note(shared, exit_code=1, is_transient=False, message="  [rank 1] ValueError: mine")
    with pytest.raises(StageFailed, match="ended on node n1") as failure:
        while True:
            head.is_complete_after_look()
    assert "ValueError: mine" in str(failure.value) and not failure.value.is_transient


def test_a_head_that_crashed_leaves_the_verdict_to_its_own_log_where_the_nodes_only_lost_it(shared: Path) -> None:
    head = meeting(shared)
    write_note(shared, exit_code=1, is_transient=True, message="Connection closed by peer")
    head.check_end(1)


def test_the_word_of_the_ranks_goes_before_that_of_a_node(shared: Path) -> None:
    head = meeting(shared)
    (shared / "artifacts" / "pretrain" / "f" / "exit.json").write_text("{}")
    write_note(shared, exit_code=1, is_transient=False)
    for _ in range(3):
        assert head.is_complete_after_look()


def test_nodes_that_never_came_are_asked_for(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = meeting(shared)
    head.check_end(1)  # it crashed at once: not for want of nodes
    monkeypatch.setattr(rendezvous, "JOIN_SECONDS", 0)
    with pytest.raises(StageFailed, match=r"1 of 2 machines did not come .* Start `nanochat join`"):
        head.check_end(1)


def test_every_problem_of_a_launch_is_told_at_once() -> None:
    assert LAUNCH.conflicts() == []
    assert [line.split(":")[0] for line in LaunchSpec(mode="multinode", rdzv_endpoint="head").conflicts()] == [
        "launch.nnodes",
        "launch.rdzv_endpoint",
    ]
    assert len(LaunchSpec(nnodes=2, rdzv_endpoint="head:29500").conflicts()) == 2
