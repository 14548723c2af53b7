"""Where this node's servers are: what `nanochat up` has started, or what the user's environment names instead.

$NANOCHAT_BASE_DIR/node/    node.json (the addresses), supervisord.conf, supervisord.pid, *.log
"""

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from nanochat_core import artifacts
from nanochat_core.errors import ArtifactError, NanochatError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """A server. `is_ours`: started by `nanochat up`; otherwise it is the user's, and is left alone."""

    url: str
    is_ours: bool

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or LOOPBACK

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80


@dataclass(frozen=True)
class Node:
    """The servers of one base folder. `prefect` is the address of the UI; its API is below `/api`."""

    base: Path
    prefect: Address
    mlflow: Address
    listen: str = LOOPBACK

    @property
    def folder(self) -> Path:
        return folder(self.base)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach the servers."""
        return {
            "NANOCHAT_BASE_DIR": str(self.base),
            "PREFECT_API_URL": f"{self.prefect.url}/api",
            "MLFLOW_TRACKING_URI": self.mlflow.url,
        }

    def save(self) -> None:
        content = {"prefect": asdict(self.prefect), "mlflow": asdict(self.mlflow), "listen": self.listen}
        artifacts.write_json(self.folder / "node.json", content)


def folder(base: Path) -> Path:
    return base / "node"


def describe(base: Path, *, host: str, prefect_port: int, mlflow_port: int) -> Node:
    """Return the node as `nanochat up` was asked for it; PREFECT_API_URL and MLFLOW_TRACKING_URI come first."""
    reachable = LOOPBACK if host in ("0.0.0.0", "::") else host
    prefect, mlflow = os.environ.get("PREFECT_API_URL"), os.environ.get("MLFLOW_TRACKING_URI")
    return Node(
        base,
        Address(prefect.removesuffix("/").removesuffix("/api"), is_ours=False)
        if prefect
        else Address(f"http://{reachable}:{prefect_port}", is_ours=True),
        Address(mlflow.removesuffix("/"), is_ours=False)
        if mlflow
        else Address(f"http://{reachable}:{mlflow_port}", is_ours=True),
        host,
    )


def running(base: Path) -> Node | None:
    """Return the node that runs for this base folder, or None."""
    if supervisor_process(base) is None:
        return None
    try:
        content = artifacts.read_json(folder(base) / "node.json")
    except ArtifactError:
        return None
    return Node(base, Address(**content["prefect"]), Address(**content["mlflow"]), content["listen"])


def supervisor_process(base: Path) -> psutil.Process | None:
    """Return the process that keeps the servers running, if there is one."""
    try:
        process = psutil.Process(int((folder(base) / "supervisord.pid").read_text()))
        return process if str(configuration(base)) in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def configuration(base: Path) -> Path:
    return folder(base) / "supervisord.conf"


def check_port(node: Node, address: Address, option: str) -> None:
    """Raise NanochatError where the port of a server of ours is taken."""
    if not address.is_ours:
        return
    family = socket.AF_INET6 if ":" in node.listen else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((node.listen, address.port))
        except OSError as error:
            raise NanochatError(
                f"Port {address.port} of {node.listen} cannot be used ({error.strerror}): something else listens "
                f"there, or the host is not this machine's. Choose another with {option}."
            ) from None
