"""Doctor's checks of what is reached by network: the node's ports and servers, the Hub, and the clock beside theirs."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from flows.doctor_finding import Check, Finding, State
from flows.node import addresses
from flows.tracking_store import public_address
from nanochat_core import paths

SECONDS = 5.0
HUB = "https://huggingface.co"
PORTS = (("prefect", 4200, "--prefect-port"), ("mlflow", 5000, "--mlflow-port"))
SKEW_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What a server answered: `code` of HTTP, or None and `trouble`. `skew`: our clock minus its, in seconds."""

    code: int | None
    trouble: str = ""
    skew: float | None = None

    @property
    def is_alive(self) -> bool:
        return self.code is not None and self.code < 500


def ask(url: str) -> Answer:
    """Ask a server for a page, with a short time-out. Never raises."""
    try:
        reply = httpx.get(url, timeout=SECONDS, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Answer(None, " ".join(str(error).split()) or type(error).__name__)
    skew = None
    if date := reply.headers.get("date"):
        try:
            skew = time.time() - parsedate_to_datetime(date).timestamp()
        except ValueError:
            skew = None
    return Answer(reply.status_code, "" if reply.status_code < 500 else f"HTTP {reply.status_code}", skew)


def ports(base: Path) -> Iterator[Finding]:
    """Are the ports of `nanochat up` free, or its own?"""
    node = addresses.running(base)
    remote = {"prefect": os.environ.get("PREFECT_API_URL"), "mlflow": os.environ.get("MLFLOW_TRACKING_URI")}
    for name, port, option in PORTS:
        if node is not None:
            address = node.prefect if name == "prefect" else node.mlflow
            whose = "of `nanochat up`" if address.is_ours else "named by the environment of `nanochat up`"
            yield Finding(f"port of {name}", "ok", f"{public_address(address.url)}, {whose}")
        elif remote[name]:
            yield Finding(f"port of {name}", "ok", "not needed: the environment names a server")
        elif is_free(port):
            yield Finding(f"port of {name}", "ok", f"{port} is free")
        else:
            remedy = f"`nanochat up {option} …` takes another; or end what listens there"
            yield Finding(f"port of {name}", "warning", f"{port} is taken by something else", remedy)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((addresses.LOOPBACK, port))
        except OSError:
            return False
        return True


def server_urls(base: Path) -> dict[str, str]:
    """Return {server: address of its health page} of those that runs would use now."""
    node = addresses.running(base)
    prefect = os.environ.get("PREFECT_API_URL") or (f"{node.prefect.url}/api" if node else "")
    mlflow = os.environ.get("MLFLOW_TRACKING_URI") or (node.mlflow.url if node else "")
    found = {"prefect": f"{prefect.rstrip('/')}/health"} if prefect else {}
    return found | ({"mlflow": f"{mlflow.rstrip('/')}/health"} if mlflow.startswith("http") else {})


def servers(base: Path) -> Iterator[Finding]:
    """Do the servers answer that a run would use?"""
    urls = server_urls(base)
    if not urls:
        yield Finding("servers", "ok", "none is up: a run starts its own; `nanochat up` starts them with their pages")
    for name, url in urls.items():
        answer, place = ask(url), public_address(url).removesuffix("/health")
        if answer.is_alive:
            yield Finding(name, "ok", f"{place} answers")
        else:
            state: State = "problem" if name == "prefect" else "warning"  # tracking is filled in later
            remedy = "`nanochat up` starts it, or correct PREFECT_API_URL and MLFLOW_TRACKING_URI"
            yield Finding(name, state, f"{place} does not answer: {answer.trouble}", remedy)


def hub(base: Path) -> Iterator[Finding]:
    """Is the Hugging Face Hub there, for the recipes that load from it?"""
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if is_offline():
        yield Finding("hub", "ok", f"HF_HUB_OFFLINE is set: only what {paths.hub_dir(base)} has can be used")
        return
    answer = ask(endpoint)
    if answer.is_alive:
        yield Finding("hub", "ok", f"{public_address(endpoint)} answers")
    else:
        remedy = "the demo needs none; else see proxy and HF_ENDPOINT, or use --data path"
        yield Finding("hub", "warning", f"{public_address(endpoint)} does not answer: {answer.trouble}", remedy)


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def clock(base: Path) -> Iterator[Finding]:
    """Is our clock that of the others? Heartbeats and the age of files are compared across machines."""
    urls = [*server_urls(base).values(), *([] if is_offline() else [os.environ.get("HF_ENDPOINT") or HUB])]
    for url in urls:
        if (skew := ask(url).skew) is not None:
            found = f"{abs(skew):.0f} s {'before' if skew > 0 else 'behind'} {public_address(url)}"
            is_off = abs(skew) > SKEW_SECONDS
            remedy = "set it by NTP: timedatectl set-ntp true" if is_off else ""
            yield Finding("clock", "warning" if is_off else "ok", found, remedy)
            return
    yield Finding("clock", "ok", "compared with nobody: no server tells the time")


CHECKS: tuple[Check, ...] = (ports, servers, hub, clock)
