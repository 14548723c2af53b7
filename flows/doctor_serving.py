"""Doctor's check of the models that flow runs serve on this node (flows/serve.py)."""

from collections.abc import Iterator
from pathlib import Path

from flows.doctor_finding import Check, Finding
from flows.serving.client import trouble_of
from flows.serving.record import STATUS, ServerStatus, ServingRecord, living

SECONDS = 5.0


def servers(base: Path) -> Iterator[Finding]:
    """What is served, where, by which run, and does it answer?"""
    found = living(base)
    if not found:
        yield Finding("serving", "ok", "no flow run serves a model")
    for folder, record in found.items():
        yield look_at(folder, record)


def look_at(folder: Path, record: ServingRecord) -> Finding:
    """Return what is to be said of one server."""
    status = ServerStatus.read(folder / STATUS)
    state = status.state if status else "loading"
    what = f"{record.model}: {state}, by the flow run {record.flow_run_name!r}"
    name = f"port {record.port}"
    if status is None or status.url is None or state != "ready":
        return Finding(name, "ok", what)
    if trouble := trouble_of(status.url, "/health", seconds=SECONDS):
        remedy = f"its run starts it again; it says why in {folder / 'log.txt'}"
        return Finding(name, "warning", f"{what}, does not answer at {status.url}: {trouble}", remedy)
    return Finding(name, "ok", f"{what}, at {status.url}")


CHECKS: tuple[Check, ...] = (servers,)
