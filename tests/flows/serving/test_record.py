"""Who serves what on this node, and who keeps trainings off the GPUs meanwhile."""

import contextlib
import os
from pathlib import Path

import pytest

from flows import locks
from flows.gc_usage import served
from flows.serving import record as serving_record
from flows.serving.gpu import reserved, reserves
from flows.serving.record import ServingRecord, living, recorded, runs_dir, successor
from nanochat_core import artifacts
from tests.flows.tracked import wait_until


def record(name: str, *, port: int = 8000, reserves_gpu: bool = False, started: float = 1.0) -> ServingRecord:
    return ServingRecord(
        flow_run_id=name,
        flow_run_name=f"serve {name}",
        process_id=os.getpid(),
        model=name,
        model_folder=Path(f"/artifacts/sft/{name}"),
        tokenizer_folder=Path("/artifacts/tokenizer/t"),
        port=port,
        reserves_gpu=reserves_gpu,
        started=started,
    )


def test_a_server_is_known_while_its_lock_is_held_and_no_longer(tmp_path: Path) -> None:
    with recorded(tmp_path, record("a")) as (folder, descriptor):
        held_by_its_guard = os.dup(descriptor)
        assert living(tmp_path) == {folder: record("a")}
        assert served(tmp_path) == {"sft/a", "tokenizer/t"}
        assert serving_record.flow_runs(tmp_path) == {"a"}
    assert list(living(tmp_path)) == [folder]  # the flow is gone, its server not yet
    os.close(held_by_its_guard)
    assert living(tmp_path) == {} and served(tmp_path) == frozenset()


def test_the_folders_of_old_servers_go_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_record, "KEPT", 2)
    with recorded(tmp_path, record("0")) as (living_folder, _):
        folders = []
        for name in "abc":
            with recorded(tmp_path, record(name)) as (folder, _):
                folders.append(folder)
        serving_record.tidy(tmp_path)
        assert sorted(runs_dir(tmp_path).iterdir()) == sorted([living_folder, *folders[1:]])
    assert (tmp_path / "serving").stat().st_mode & 0o077 == 0


def test_the_successor_is_the_next_on_the_same_port(tmp_path: Path) -> None:
    own = record("own", started=2.0)
    others = [record("before", started=1.0), record("elsewhere", port=9000, started=3.0)]
    with contextlib.ExitStack() as stack:
        for other in [own, *others]:
            stack.enter_context(recorded(tmp_path, other))
        assert successor(tmp_path, own, seconds=0) is None
        for later in (record("second", started=5.0), record("first", started=4.0)):
            stack.enter_context(recorded(tmp_path, later))
        assert successor(tmp_path, own, seconds=0) == record("first", started=4.0)


@pytest.mark.parametrize(("gpu", "device", "gpus", "holds"), [
    ("reserved", None, ("H100",), True),
    ("reserved", "cpu", ("H100",), False),
    ("reserved", None, (), False),
    ("shared", "cuda", ("H100",), False),
])  # fmt: skip
def test_only_a_server_on_gpus_holds_the_training_lock_and_only_when_it_is_to(
    monkeypatch: pytest.MonkeyPatch, gpu: str, device: str | None, gpus: tuple[str, ...], holds: bool
) -> None:
    monkeypatch.setattr("flows.serving.gpu.visible_gpus", lambda _: gpus)
    assert reserves(gpu, device) is holds  # type: ignore[arg-type]


def test_gpus_are_reserved_after_the_training_that_runs_and_handed_on_with_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_lock = tmp_path / "locks" / "train.lock"
    waited: list[str] = []
    trains = contextlib.ExitStack()
    trains.enter_context(locks.hold(train_lock, on_wait=print))
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("flows.serving.gpu.warn", lambda line: (waited.append(line), trains.close()))
    old, new = record("old", reserves_gpu=True), record("new", reserves_gpu=True, started=2.0)
    with reserved(tmp_path, old) as (descriptor,), recorded(tmp_path, old):
        assert len(waited) == 1 and "waiting for process" in waited[0]
        serves = contextlib.ExitStack()
        assert serves.enter_context(reserved(tmp_path, new)) == ()  # it does not wait for the one that it replaces
        held_by_its_guard = os.dup(descriptor)
    assert not locks.is_free(train_lock)
    os.close(held_by_its_guard)
    wait_until(lambda: not locks.is_free(train_lock))
    serves.close()
    assert locks.is_free(train_lock)
    with reserved(tmp_path, record("shared")) as nothing:
        assert nothing == () and locks.is_free(train_lock)


def test_what_a_command_serves_is_known_while_its_control_socket_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    folder.mkdir()
    (folder / "8000.sock").touch()
    for name in ("8000", "9000"):
        spec = {"model_folder": f"/artifacts/sft/{name}", "tokenizer_folder": "/artifacts/tokenizer/t"}
        artifacts.write_json(folder / f"{name}.spec.json", spec)
    assert served(tmp_path) == {"sft/8000", "tokenizer/t"}
    (folder / "8000.spec.json").rename(folder / "any.spec.json")  # on whatever port was free
    assert served(tmp_path) == {"sft/8000", "tokenizer/t"}
    (folder / "8000.sock").unlink()
    assert served(tmp_path) == frozenset()
