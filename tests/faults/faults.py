"""What may go wrong in the middle of pretraining, and what has to hold then: each function does it once, and checks it.

The node runs for real: Prefect's server, MLflow's server, a worker, torchrun with two ranks. Each function returns what
it saw, in words, and raises AssertionError or TimeoutError where a promise is broken.
"""

import signal
import time
from collections.abc import Callable
from uuid import UUID

import psutil

from tests.faults.live_node import PRETRAIN, LiveNode, kill, long_spec, wait_for
from tests.faults.mlflow_points import missing_or_double

DEPLOYMENT = "pretrain/pretrain"
STOP_SECONDS = 40.0  # the guard's grace of 25 s, and a busy machine


def begin(node: LiveNode) -> UUID:
    """Start a pretraining from nothing, and return in the middle of it."""
    node.forget_pretraining()
    run_id = node.start(DEPLOYMENT, long_spec())
    node.wait_until_in_the_middle()
    assert len(node.ranks()) == 2
    return run_id


def finish(node: LiveNode, run_id: UUID, *, attempts: int) -> str:
    """Wait for the run's end; check that it was trained in `attempts` pieces and that MLflow has every point once."""
    run = node.wait_for_state(run_id, "Completed")
    assert node.attempts() == attempts, f"{node.attempts()} attempts instead of {attempts}"
    node.wait_until_nothing_trains()
    assert node.steps()[-1] == long_spec().pretrain.steps
    folder = node.pretraining()
    assert folder is not None
    wait_for(lambda: not missing_or_double(node.mlflow_url, folder), "complete curve in MLflow", 60)
    return f"{run.state_name}, {attempts} attempt{'s' * (attempts > 1)}, MLflow has each point once"


def watch_for_two_trainings(node: LiveNode, seconds: float) -> None:
    """Check for a while that no second torchrun starts beside the first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert len(node.processes(PRETRAIN, "flows.guard")) <= 1, "two trainings at once"
        time.sleep(0.3)


def worker_is_killed(node: LiveNode) -> str:
    """The run goes on to its end, once; another worker takes the next runs."""
    run_id = begin(node)
    worker = node.worker()
    kill(worker)
    wait_for(lambda: any(p.pid != worker.pid for p in node.processes("prefect", "worker")), "new worker")
    watch_for_two_trainings(node, 5)
    return finish(node, run_id, attempts=1)


def flow_process_is_killed(node: LiveNode) -> str:
    """Nothing survives, a checkpoint is saved, the run is Crashed, and a retry goes on from there."""
    run_id = begin(node)
    steps = node.steps()[-1]
    kill(node.flow_process(run_id))
    node.wait_until_nothing_trains(STOP_SECONDS)
    saved = int(node.checkpoints()[-1].removeprefix("step_"))
    assert saved >= steps, f"step {steps} was measured, and the last checkpoint is of step {saved}"
    node.wait_for_state(run_id, "Crashed")
    node.retry(run_id)
    return f"saved at step {saved}, Crashed; after a retry " + finish(node, run_id, attempts=2)


def agent_is_killed(node: LiveNode) -> str:
    """The ranks end, and the flow starts the stage again by itself."""
    run_id = begin(node)
    kill(node.agent())
    return finish(node, run_id, attempts=2)


def rank_is_killed(node: LiveNode) -> str:
    """The other ranks end, and the flow starts the stage again by itself."""
    run_id = begin(node)
    kill(node.ranks()[-1])
    return finish(node, run_id, attempts=2)


def prefect_server_is_killed(node: LiveNode) -> str:
    """Training does not notice; another server takes over, and the run ends as if nothing had been."""
    run_id = begin(node)
    before = node.prefect_server().pid
    kill(node.prefect_server())
    wait_for(lambda: any(p.pid != before for p in node.processes("prefect", "server")), "new Prefect server")
    return finish(node, run_id, attempts=1)


def mlflow_server_is_killed(node: LiveNode) -> str:
    """Training does not notice, and MLflow gets every point once it is back."""
    run_id = begin(node)
    kill(node.mlflow_server())
    return finish(node, run_id, attempts=1)


def rank_hangs(node: LiveNode) -> str:
    """The stacks of every rank are in the log, nothing survives, and the flow starts the stage again by itself."""
    node.forget_pretraining()
    run_id = node.start(DEPLOYMENT, long_spec(**{"pretrain.runtime.stall_minutes": 0.25}))
    node.wait_until_in_the_middle()
    node.ranks()[-1].send_signal(signal.SIGSTOP)
    folder = node.pretraining()
    assert folder is not None
    log = folder / "log.txt"
    wait_for(lambda: log.read_text(errors="replace").count("Fatal Python error: Aborted") >= 2, "stacks of two ranks")
    text = log.read_text(errors="replace")
    for rank in (0, 1):
        assert f"[rank {rank}] Fatal Python error: Aborted" in text, f"no stacks of rank {rank}"
    return "stacks of both ranks; " + finish(node, run_id, attempts=2)


def run_is_cancelled(node: LiveNode) -> str:
    """The tree ends within the grace time, with a checkpoint saved; a retry goes on from there."""
    run_id = begin(node)
    steps = node.steps()[-1]
    cancel(node, run_id)
    started = time.monotonic()
    node.wait_until_nothing_trains(STOP_SECONDS)
    seconds = time.monotonic() - started
    node.wait_for_state(run_id, "Cancelled")
    saved = int(node.checkpoints()[-1].removeprefix("step_"))
    assert saved >= steps
    node.retry(run_id)
    return f"gone after {seconds:.0f} s, saved at step {saved}; after a retry " + finish(node, run_id, attempts=2)


def run_is_cancelled_after_its_worker_was_killed(node: LiveNode) -> str:
    """Nobody is there who has started the run; it is stopped all the same."""
    run_id = begin(node)
    kill(node.worker())
    cancel(node, run_id)
    node.wait_for_state(run_id, "Cancelled")
    node.wait_until_nothing_trains(STOP_SECONDS)
    return "Cancelled, nothing survives"


def cancel(node: LiveNode, run_id: UUID) -> None:
    """Do what the button Cancel does."""
    from prefect.states import Cancelling

    with node.client as client:
        client.set_flow_run_state(run_id, Cancelling())


def power_fails(node: LiveNode) -> str:
    """Every process of the node is killed at once; the next `nanochat up` finds the run, and a retry continues it."""
    run_id = begin(node)
    for process in node.processes():
        try:
            kill(process)
        except psutil.NoSuchProcess:
            continue
    wait_for(lambda: not node.processes(), "end of all processes")
    saved = node.checkpoints()
    assert saved
    node.up()
    run = node.run(run_id)
    assert run is not None and run.state_name == "Crashed", run and run.state_name
    node.retry(run_id)
    return f"found as Crashed, {saved[-1]} kept; after a retry " + finish(node, run_id, attempts=2)


FAULTS: dict[str, Callable[[LiveNode], str]] = {
    "worker killed": worker_is_killed,
    "flow process killed": flow_process_is_killed,
    "torchrun's agent killed": agent_is_killed,
    "one rank killed": rank_is_killed,
    "Prefect server killed": prefect_server_is_killed,
    "MLflow server killed": mlflow_server_is_killed,
    "one rank hangs": rank_hangs,
    "run cancelled": run_is_cancelled,
    "run cancelled, its worker gone": run_is_cancelled_after_its_worker_was_killed,
    "power failure": power_fails,
}
