"""How the flow keeps a server alive: restarts with pauses, the failures that end it, and the ends that are none."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.prefect_server import free_port
from flows.serving import process as serving_process
from flows.serving.process import End, ServerCommand, ServerProcess
from flows.serving.record import ServerStatus
from flows.serving.watch import WatchRules, keep_serving
from nanochat_core.errors import NanochatError, StageFailed
from nanochat_core.serve_spec import ServeSpec

QUICK = {"health_seconds": 0.05, "timeout_seconds": 0.2, "restart_seconds": 0.01, "unhealthy_after": 2}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base folder in which every server is a fake one; what the flow says is printed."""
    monkeypatch.setattr(serving_process, "MODULE", "tests.flows.fake_server")
    monkeypatch.setattr("flows.serving.watch.warn", print)
    monkeypatch.setattr("flows.serving.watch.LOOK_SECONDS", 0.02)
    return tmp_path


def command(base: Path, name: str = "server", port: int | None = None) -> ServerCommand:
    folder = base / name
    folder.mkdir()
    return ServerCommand(folder, ServeSpec(model_folder="m", tokenizer_folder="t", port=port or free_port()), base)


class Observed:
    """What `on_ready` heard; lets the test act while the server runs."""

    def __init__(self, *acts: Callable[[ServerProcess, str], None]) -> None:
        self.acts, self.urls = list(acts), list[str]()

    def __call__(self, process: ServerProcess, url: str) -> None:
        self.urls.append(url)
        if self.acts:
            self.acts.pop(0)(process, url)


def server_pid(process: ServerProcess) -> int:
    status = ServerStatus.read(process.status_file)
    assert status is not None and status.pid is not None
    return status.pid


def kill(process: ServerProcess, _: str) -> None:
    os.kill(server_pid(process), signal.SIGKILL)


def stop(process: ServerProcess, _: str) -> None:
    os.kill(server_pid(process), signal.SIGTERM)


def starts(server: ServerCommand) -> int:
    return len((server.folder / "starts").read_text())


def test_whatever_befalls_a_server_that_has_served_it_is_started_again_unless_somebody_stops_it(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_SERVER", "well,input,deaf,well")
    server = command(base)
    seen = Observed(kill, lambda *_: None, stop)
    assert keep_serving(server, WatchRules(**QUICK), seen) == "stopped"
    assert (starts(server), len(seen.urls)) == (4, 3)
    killed, refused, deaf = capsys.readouterr().out.splitlines()
    assert killed.endswith("by itself (exit code 137): it said nothing. It starts again in 0.01 s (failure 1 of 5).")
    assert refused.endswith("no checkpoint in the folder: train first. It starts again in 0.02 s (failure 2 of 5).")
    assert "GET /health, 2 times in a row: no answer in 0.2 s. It starts again in 0.04 s" in deaf


def test_too_many_failures_in_the_window_end_the_run_with_the_servers_last_words(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SERVER", "crash")
    server = command(base)
    with pytest.raises(StageFailed, match=r"(?s)failure 2 within 10 minutes.*log\.txt:\n +the engine has blown up"):
        keep_serving(server, WatchRules(**QUICK, max_failures=2), Observed())
    assert starts(server) == 2


def test_what_the_user_can_fix_is_not_tried_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "input")
    server = command(base)
    with pytest.raises(NanochatError, match="refuses to start: no checkpoint in the folder: train first"):
        keep_serving(server, WatchRules(**QUICK), Observed())
    assert starts(server) == 1


def test_a_server_that_never_becomes_ready_is_given_up(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "silent")
    rules = WatchRules(**QUICK, ready_seconds=0.5, max_failures=1)
    with pytest.raises(StageFailed, match=r"not ready within 0.5 s: it is still loading"):
        keep_serving(command(base), rules, Observed())


def test_a_newer_server_on_the_port_ends_the_watch_of_the_older_one_without_a_restart(base: Path) -> None:
    port, ends = free_port(), dict[str, End]()
    old, new = command(base, "old", port), command(base, "new", port)
    is_up, newer_is_up = threading.Event(), threading.Event()

    def watch_old() -> None:
        ends["old"] = keep_serving(old, WatchRules(**QUICK), Observed(lambda *_: is_up.set()))
        newer_is_up.wait(30)

    def stop_when_the_old_one_has_gone(process: ServerProcess, url: str) -> None:
        while "old" not in ends:
            time.sleep(0.02)
        newer_is_up.set()
        stop(process, url)

    watcher = threading.Thread(target=watch_old)
    watcher.start()
    assert is_up.wait(30)
    ends["new"] = keep_serving(new, WatchRules(**QUICK), Observed(stop_when_the_old_one_has_gone))
    watcher.join()
    assert ends == {"old": "replaced", "new": "stopped"}
    assert (starts(old), starts(new)) == (1, 1)


def test_a_server_that_dies_while_it_drains_is_not_started_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "frail")
    server = command(base)
    assert keep_serving(server, WatchRules(**QUICK), Observed(stop)) == "stopped"
    assert starts(server) == 1


def test_whatever_ends_the_run_stops_the_server_and_urges_one_that_is_slow_to_leave(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SERVER", "stubborn")
    monkeypatch.setattr(serving_process, "DRAIN_SECONDS", 0.3)
    server = command(base)

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(KeyboardInterrupt):
        keep_serving(server, WatchRules(**QUICK), Observed(cancel))
    assert set(psutil.Process().children(recursive=True)) <= before
    status = ServerStatus.read(server.status_file)
    assert status is not None and status.state == "stopped"  # it ended in order, on the second SIGTERM
