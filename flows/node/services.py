"""The configuration of supervisord, which starts a node's servers and worker, and starts again what dies.

Servers run under the guard (flows/guard.py): when supervisord is gone, however it went, so are they. The worker does
not: a flow run outlives the worker that has started it.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.node.addresses import Node, configuration
from nanochat_core import artifacts, paths

POOL = "nanochat"
LOG_BYTES = "10MB"


@dataclass(frozen=True)
class Program:
    """One process that is kept running. Higher priorities start later and stop earlier."""

    name: str
    arguments: list[str]
    priority: int
    stop_seconds: int = 30

    def section(self, node: Node) -> list[str]:
        """Return the lines of its section in supervisord.conf."""
        command = shlex.join([sys.executable, *self.arguments]).replace("%", "%%")
        return [
            f"[program:{self.name}]",
            f"command={command}",
            f"directory={escaped(node.folder)}",
            f"priority={self.priority}",
            "autorestart=true",
            "startsecs=2",
            "startretries=1000000",
            f"stopwaitsecs={self.stop_seconds}",
            "redirect_stderr=true",
            f"stdout_logfile={escaped(node.folder / f'{self.name}.log')}",
            f"stdout_logfile_maxbytes={LOG_BYTES}",
            "stdout_logfile_backups=2",
            "",
        ]


def programs(node: Node) -> list[Program]:
    """Return what runs on this node: the servers that are ours, the worker, and the keeper of the records."""
    found = []
    if node.prefect.is_ours:
        command = ["-m", "prefect", "server", "start", "--host", node.listen, "--port", str(node.prefect.port)]
        found.append(Program("prefect", guarded(node, command), priority=1))
    if node.mlflow.is_ours:
        found.append(Program("mlflow", guarded(node, mlflow_server(node)), priority=1))
    found.append(Program("keeper", ["-m", "flows.node.keeper"], priority=2))
    found.append(Program("worker", ["-m", "flows.node.worker"], priority=3, stop_seconds=60))
    return found


def guarded(node: Node, command: list[str]) -> list[str]:
    return ["-m", "flows.guard", str(node.folder), sys.executable, *command]


def mlflow_server(node: Node) -> list[str]:
    """Return the arguments of `mlflow server` on the same store that a run without a server uses."""
    store = paths.mlflow_dir(node.base)
    return [
        *("-m", "mlflow", "server", "--host", node.listen, "--port", str(node.mlflow.port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination", str(store / "artifacts")),
    ]


def server_environment(node: Node) -> dict[str, str]:
    """What the servers and the worker need besides the addresses."""
    return node.environment | {
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # that page asks another host for its settings at every load
        "PREFECT_SERVER_UI_API_URL": "/api",  # of whatever address the page was opened at, through a tunnel as well
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine more processes that nobody here uses
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # what the automation against dead runs listens to
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # 8 minutes: a flow outlives a restart of its server
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "PREFECT_LOGGING_LEVEL": "INFO",  # a terminal is quiet (flows/environment.py); the UI shows what a run logs
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }


def write_configuration(node: Node) -> Path:
    """Write supervisord.conf and return its path. It holds no secret and opens no port."""
    for path in (node.folder, paths.prefect_home(node.base), paths.mlflow_dir(node.base) / "artifacts"):
        path.mkdir(parents=True, exist_ok=True)
    node.folder.chmod(0o700)
    lines = [
        "[supervisord]",
        f"logfile={escaped(node.folder / 'supervisord.log')}",
        f"pidfile={escaped(node.folder / 'supervisord.pid')}",
        f"directory={escaped(node.folder)}",
        *(["user=root"] if os.geteuid() == 0 else []),
        "",
    ]
    for program in programs(node):
        lines += program.section(node)
    path = configuration(node.base)
    artifacts.write_bytes(path, "\n".join(lines).encode())
    return path


def escaped(path: Path) -> str:
    """Return a path as supervisord's configuration takes it, where % begins a variable."""
    return str(path).replace("%", "%%")
