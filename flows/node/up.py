"""`nanochat up` and `nanochat down`: Prefect's server, MLflow's server and a worker on this node."""

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flows import environment, launch, prefect_server, run_lock
from flows.node import addresses, services
from flows.node.addresses import Node
from flows.serving import record as serving_record
from nanochat_core.errors import NanochatError
from nanochat_core.paths import locks_dir

START_SECONDS = 120.0
STOP_SECONDS = 60.0  # a stage saves, its guard waits 25 s, Prefect's worker 30 s


def up(node: Node, tell: Callable[[str], None]) -> Node:
    """Start what does not run yet and return the running node, which is another one where it ran already.

    Raises NanochatError for a port that is taken, and for a server that does not start.
    """
    with alone(node.base):
        if (known := addresses.running(node.base)) is not None:
            node = known
            tell("Already up: nothing is started a second time.")
        else:
            start(node, tell)
    os.environ |= node.environment
    prepare_records(node, tell)
    return node


def start(node: Node, tell: Callable[[str], None]) -> None:
    """Start supervisord with all programs, and wait until the servers answer."""
    addresses.check_port(node, node.prefect, "--prefect-port")
    addresses.check_port(node, node.mlflow, "--mlflow-port")
    configuration = services.write_configuration(node)
    node.save()
    environment.prepare(node.base)
    launch.start_supervisor(configuration, environment=services.server_environment(node))
    tell("Waiting for the servers …")
    for address, path, log in (
        (node.prefect, "/api/health", "prefect.log"),
        (node.mlflow, "/health", "mlflow.log"),
    ):
        prefect_server.wait_for_answer(f"{address.url}{path}", node.folder / log, START_SECONDS)


def prepare_records(node: Node, tell: Callable[[str], None]) -> None:
    """Register what the UI offers, and set right what a crash has left, in Prefect and in MLflow."""
    from prefect.client.orchestration import get_client

    from flows.node.reconcile import Reconciler
    from flows.node.registration import register
    from flows.tracking import reconcile as reconcile_mlflow

    tell("Registering the deployments …")
    register(node)
    with get_client(sync_client=True) as client:
        for line in Reconciler(node.base).reconcile(client):
            tell(line)
    for line in reconcile_mlflow(node.base):
        tell(line)


def experiment_page(node: Node) -> str:
    """Return the address of the page with all runs, which is not the one that MLflow opens with."""
    from flows.tracking_store import Store

    store = Store(node.base, node.mlflow.url)
    return f"{store.address}/#/experiments/{store.experiment_id}/runs?workflowType=machine_learning"


def down(base: Path, tell: Callable[[str], None]) -> bool:
    """Stop the runs of this node, which save first, then worker and servers; False where nothing ran."""
    with alone(base):
        supervisor = addresses.supervisor_process(base)
        if living := run_lock.living(base):
            for line in farewells(base, living):
                tell(line)
            stop_runs(base)
        if supervisor is None:
            return bool(living)
        tell("Stopping worker and servers …")
        stop(supervisor)
        (addresses.folder(base) / "node.json").unlink(missing_ok=True)
        return True


def farewells(base: Path, living: Collection[str]) -> Iterator[str]:
    """Yield what is said of the flow runs, by their ids, that are about to be stopped."""
    serving = {record.flow_run_id: record for record in serving_record.living(base).values()}
    if others := [run for run in living if run not in serving]:
        yield f"Stopping {len(others)} run{'s' * (len(others) > 1)}; a retry goes on from the last checkpoint …"
    for record in serving.values():
        yield f"Stopping the server of {record.model} on port {record.port}; its answers have a moment to finish …"


def stop_runs(base: Path) -> None:
    from flows.node import reconcile

    reconcile.stop_runs(base, STOP_SECONDS)
    time.sleep(1.0)  # the worker tells the server how they ended


def stop(supervisor: psutil.Process) -> None:
    """Stop supervisord, which stops the rest, the worker first. Raises NanochatError where it does not end."""
    supervisor.terminate()
    try:
        supervisor.wait(2 * STOP_SECONDS)
    except psutil.TimeoutExpired:
        raise NanochatError(
            f"Process {supervisor.pid} (supervisord) has not ended in {2 * STOP_SECONDS:g} s; its log is beside "
            "node.json. Look at what it waits for, or kill it: the servers end with it."
        ) from None


@contextmanager
def alone(base: Path) -> Iterator[None]:
    """Keep two `up` or `down` of one base folder from each other."""
    from flows import locks

    with locks.hold(locks_dir(base) / "node.lock", on_wait=print):
        yield
