"""A real MLflow server on loopback that can be killed, frozen and started again, with its store in one folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

START_SECONDS = 120.0


class LiveMlflow:
    """One server at a time, always at the same address. A context manager: nothing of it is left at the end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def store(self) -> str:
        """The server's database, which can be read without it."""
        return f"sqlite:///{self._folder}/mlflow.db"

    def __enter__(self) -> "LiveMlflow":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--workers", "1", "--backend-store-uri", self.store),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with open(self._folder / "server.log", "ab") as log:
            self._server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise RuntimeError((self._folder / "server.log").read_text()[-2000:])
            time.sleep(0.2)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        return False

    def kill(self) -> None:
        """Kill -9 every process of it."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._server:
            self._server.wait()
            self._server = None

    def freeze(self) -> None:
        """Have it take connections and never answer."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def _processes(self) -> list[psutil.Process]:
        if self._server is None or self._server.poll() is not None:
            return []
        server = psutil.Process(self._server.pid)
        return [server, *server.children(recursive=True)]
