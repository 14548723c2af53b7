"""A Prefect server for one `nanochat` command, where the user has none: its records are in the base folder.

Prefect would start one by itself, but leaves it running when the command is killed, and stops it before the last
records have reached it. Ours runs under the guard, which ends it when this process is gone, however it went. It starts
while this process is still importing Prefect.
"""

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from flows import launch
from flows.node import addresses
from nanochat_core.errors import NanochatError
from nanochat_core.paths import prefect_home

START_SECONDS = 120.0


def start(base: Path) -> Callable[[], None]:
    """Start a server unless there is one, and return a function that waits until it answers.

    To be called before Prefect is imported: sets PREFECT_API_URL. The servers of `nanochat up` are used where they run;
    whoever has a PREFECT_HOME, a profile or a server of their own is left to what that says.
    """
    has_own_home = os.environ.get("PREFECT_HOME") != str(prefect_home(base))
    if has_own_home or os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE"):
        return lambda: None
    if (node := addresses.running(base)) is not None:
        for name, value in node.environment.items():
            os.environ.setdefault(name, value)
        return lambda: wait_for(os.environ["PREFECT_API_URL"], lambda: True, node.folder / "prefect.log")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    is_running = launch.start_companion(
        ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        prefect_home(base),
        environment=os.environ | {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"},
    )
    return lambda: wait_for(url, is_running, prefect_home(base) / "log.txt")


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, is_running: Callable[[], bool], log: Path) -> None:
    """Return when the Prefect server at `url` answers. Raises NanochatError where it ends or takes too long."""
    try:
        wait_for_answer(f"{url}/health", log, START_SECONDS, is_running=is_running)
    except NanochatError as error:
        raise NanochatError(f"{error} Or start a server of yours, and set PREFECT_API_URL to it.") from None


def wait_for_answer(url: str, log: Path, seconds: float, *, is_running: Callable[[], bool] = lambda: True) -> None:
    """Return when `url` answers. Raises NanochatError, naming `log`, where it does not in `seconds`."""
    deadline = time.monotonic() + seconds
    while is_running() and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise NanochatError(f"The server of {url} did not start: {log} says why.")
