"""Keeping a server alive: readiness, health, restarts with growing pauses, and the ends that are no failures.

    started -> ready (status file and GET /ready) -> watched (GET /health) -> replaced | stopped
       ^                                               |
       +------- pause: 1, 2, 4, ... seconds <----------+  it crashed, or does not answer

Nothing here talks to Prefect or MLflow, so their outages do not matter. Whatever ends the flow run raises through these
functions and stops the server on its way (flows/serving/process.py).
"""

import time
from collections.abc import Callable, Sequence

from pydantic import Field

from flows.progress import warn
from flows.serving.client import trouble_of
from flows.serving.process import End, ServerCommand, ServerDown, ServerProcess
from nanochat_core.errors import NanochatError, StageFailed
from nanochat_core.spec_base import Spec

LOOK_SECONDS = 0.25
DRAIN_MARGIN_SECONDS = 30.0  # beyond its own limit, after which a server that drains is stopped


class WatchRules(Spec):
    """How patient the flow is with its server."""

    ready_seconds: float = Field(900.0, gt=0, description="seconds in which the model must be loaded and answer")
    health_seconds: float = Field(10.0, gt=0, description="seconds between two looks at the server's health")
    timeout_seconds: float = Field(5.0, gt=0, description="seconds in which GET /health must be answered")
    unhealthy_after: int = Field(
        3, ge=1, description="times in a row that a look fails before the server is started again"
    )
    restart_seconds: float = Field(
        1.0, ge=0, description="seconds before the first restart; twice as long before each further one"
    )
    restart_seconds_max: float = Field(60.0, ge=0, description="longest pause before a restart, in seconds")
    max_failures: int = Field(
        5, ge=1, description="times that the server may fail within the window; the last one ends the run"
    )
    window_minutes: float = Field(10.0, gt=0, description="minutes for which a failure counts")


def restart_pause(rules: WatchRules, failures: int) -> float:
    """Return how many seconds to wait before the restart after so many failures.

    >>> [restart_pause(WatchRules(restart_seconds_max=10), failures) for failures in (1, 2, 3, 4, 5)]
    [1.0, 2.0, 4.0, 8.0, 10.0]
    """
    return min(rules.restart_seconds_max, rules.restart_seconds * 2.0 ** (failures - 1))


def with_failure(failures: Sequence[float], now: float, rules: WatchRules) -> list[float]:
    """Return the times (seconds) of the failures that count, the newest included.

    >>> with_failure([0.0, 500.0], 1000.0, WatchRules(window_minutes=10))
    [500.0, 1000.0]
    """
    return [*(then for then in failures if now - then < 60 * rules.window_minutes), now]


def keep_serving(server: ServerCommand, rules: WatchRules, on_ready: Callable[[ServerProcess, str], None]) -> End:
    """Keep the server running until another takes its place or somebody stops it; return which.

    `on_ready` gets the process and its address each time that it has become ready. Raises StageFailed, with the end of
    the server's log, after `max_failures` within the window. What the user can fix raises NanochatError at once, unless
    the server has served before: then it may pass like any other failure.
    """
    failures: list[float] = []
    has_served = False

    def ready(process: ServerProcess, url: str) -> None:
        nonlocal has_served
        on_ready(process, url)
        has_served = True

    while True:
        try:
            with server.started() as process:
                return attend(process, server, rules, ready)
        except ServerDown as down:
            if down.is_refusal and not has_served:
                raise NanochatError(str(down)) from None
            failures = with_failure(failures, time.monotonic(), rules)
            if len(failures) >= rules.max_failures:
                raise StageFailed(given_up(down, process, rules, len(failures))) from None
            pause = restart_pause(rules, len(failures))
            warn(f"{down} It starts again in {pause:g} s (failure {len(failures)} of {rules.max_failures}).")
            time.sleep(pause)


def attend(
    process: ServerProcess, server: ServerCommand, rules: WatchRules, on_ready: Callable[[ServerProcess, str], None]
) -> End:
    """Wait for the server, then watch it to its end. Raises ServerDown where that end is no good one."""
    if (url := await_ready(process, rules)) is not None:
        on_ready(process, url)
        watch(process, url, rules, drain_seconds=server.spec.drain_seconds + DRAIN_MARGIN_SECONDS)
    return process.end()


def await_ready(process: ServerProcess, rules: WatchRules) -> str | None:
    """Return the server's address once it says that it is ready, and answers so; None where it ended before."""
    deadline = time.monotonic() + rules.ready_seconds
    trouble = "it is still loading"
    for _ in process.looks(LOOK_SECONDS):
        status = process.status
        if status is not None and status.state == "ready" and status.url:
            if (found := trouble_of(status.url, "/ready", seconds=rules.timeout_seconds)) is None:
                return status.url
            trouble = f"GET /ready: {found}"
        if time.monotonic() > deadline:
            raise ServerDown(f"The server was not ready within {rules.ready_seconds:g} s: {trouble}.")
    return None


def watch(process: ServerProcess, url: str, rules: WatchRules, *, drain_seconds: float) -> None:
    """Return when the process has ended. Raises ServerDown when it does not answer.

    A server that drains is left to do so: whoever listens on its port by then is another.
    """
    last_look, in_a_row = time.monotonic(), 0
    draining_since: float | None = None
    for _ in process.looks(LOOK_SECONDS):
        now = time.monotonic()
        if process.state != "ready":
            draining_since = draining_since or now
            if now - draining_since > drain_seconds:
                warn(f"The server has not ended {drain_seconds:g} s after it began to: it is stopped.")
                return process.stop()
            continue
        if now - last_look < rules.health_seconds:
            continue
        last_look = now
        trouble = trouble_of(url, "/health", seconds=rules.timeout_seconds)
        in_a_row = in_a_row + 1 if trouble and process.state == "ready" else 0
        if in_a_row >= rules.unhealthy_after:
            raise ServerDown(f"The server does not answer: GET /health, {in_a_row} times in a row: {trouble}.")


def given_up(down: ServerDown, process: ServerProcess, rules: WatchRules, failures: int) -> str:
    """Return what is said of a server that fails again and again."""
    return (
        f"{down} That was failure {failures} within {rules.window_minutes:g} minutes, so it is not started again. "
        f"The last lines of {process.log}:\n{process.last_lines}"
    )
