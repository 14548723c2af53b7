"""Brings Prefect's records in line with what is alive on this node (flows/run_lock.py tells).

A machine that lost its power, a flow process or a worker that was killed: nobody is left to say so to the server. These
runs become Crashed, and a retry goes on from the last checkpoint. A run that is being cancelled although its worker is
gone is stopped here.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed
from prefect.types._datetime import now

from flows import run_lock

OPEN_STATES = [StateType.RUNNING, StateType.CANCELLING]
WORKER_SECONDS = 45.0  # how long a cancelled run is left to its worker, which itself waits 30 s before it kills
RESUME = "Retry this run, or start one with the same parameters: it goes on from the last checkpoint."


@dataclass
class Reconciler:
    """Looks at the open runs of this node, once or again and again.

    A run whose process is gone is left to its worker for `patience_seconds`, since the look that found it so: a worker
    that lives reports the end by itself, and must not overwrite a retry that came in between.
    """

    base: Path
    patience_seconds: float = 0.0
    _dead_since: dict[UUID, float] = field(default_factory=dict)

    def reconcile(self, client: SyncPrefectClient) -> list[str]:
        """Set right every open flow run that began on this node; return a line for each one changed."""
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN_STATES))
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state), limit=200)
        self._dead_since = {run.id: self._dead_since[run.id] for run in runs if run.id in self._dead_since}
        return [line for run in runs if (line := self._set_right(client, run))]

    def _set_right(self, client: SyncPrefectClient, run: FlowRun) -> str | None:
        """Bring one run's record in line with its process; return what was done."""
        found = run_lock.look(self.base, str(run.id))
        is_cancelling = run.state_type == StateType.CANCELLING
        if found.life == "dead":
            since = self._dead_since.setdefault(run.id, time.monotonic())
            if time.monotonic() - since < self.patience_seconds:
                return None
            state = end_of(found, is_cancelling=is_cancelling)
            close(client, run.id, state)
            return f"{run.name}: {state.name}, its process is gone"
        if found.life == "alive" and is_cancelling and is_overdue(run) and found.process_id:
            os.kill(found.process_id, signal.SIGTERM)
            return f"{run.name}: stopping process {found.process_id}, as no worker did"
        return None


def end_of(found: run_lock.RunState, *, is_cancelling: bool) -> State:
    """Return the state of a run whose process is gone."""
    if is_cancelling:
        return Cancelled(message="Stopped.")
    return Crashed(message=f"Its process {found.process_id} is gone without a word. {RESUME}")


def is_overdue(run: FlowRun) -> bool:
    return run.state is not None and (now("UTC") - run.state.timestamp).total_seconds() > WORKER_SECONDS


def close(client: SyncPrefectClient, run_id: UUID, state: State) -> None:
    """End the records of a flow run, and of its task runs that are still open, in `state`."""
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        task_run_filter=TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        ),
    )
    for task in tasks:
        client.set_task_run_state(task.id, state, force=True)
    client.set_flow_run_state(run_id, state, force=True)


def stop_runs(base: Path, seconds: float) -> list[str]:
    """Tell every flow run that lives on this node to stop, which it does after saving; return the ids of them all.

    Waits until they are gone, for `seconds` at most.
    """
    told = run_lock.living(base)
    for process_id in set(told.values()):  # a flow that runs in another has its process
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while run_lock.living(base) and time.monotonic() < deadline:
        time.sleep(0.2)
    return list(told)
