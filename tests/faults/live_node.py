"""A node as `nanochat up` starts it, in a base folder of its own, and what is done to it: runs, kills, looks."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from flows import run_lock
from nanochat_core.metrics import read_metrics
from nanochat_core.specs import PipelineSpec, with_changes
from tests.flows.tiny import tiny

LONG = {
    "pretrain.steps": 800,
    "pretrain.validation_every": 800,
    "pretrain.sample_every": 800,
    "pretrain.runtime.checkpoint_every": 25,
    "pretrain.runtime.log_every": 5,
    "launch.nproc_per_node": 2,
    "launch.retry_seconds": 1,
}
T = TypeVar("T")


def long_spec(**changes: Any) -> PipelineSpec:
    """Return a tiny pipeline that pretrains on two ranks for long enough to be interrupted."""
    return with_changes(tiny(), LONG | changes)


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 90.0) -> T:
    """Return the first true thing that `look` finds; raises TimeoutError, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"no {what} within {seconds:g} s")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class LiveNode:
    """The node of one base folder. `client` speaks to its Prefect server."""

    base: Path
    ports: list[int] = field(default_factory=lambda: free_ports(2))

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(f"{self.prefect_url}/api")

    def command(self, *arguments: str) -> str:
        """Run `nanochat arguments` and return what it prints."""
        outside = ("PREFECT_", "MLFLOW_", "FAKE_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=clean | {"NANOCHAT_BASE_DIR": str(self.base), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def up(self) -> str:
        return self.command("up", f"--prefect-port={self.ports[0]}", f"--mlflow-port={self.ports[1]}")

    def down(self) -> str:
        return self.command("down")

    def start(self, deployment: str, spec: PipelineSpec) -> UUID:
        """Start a run of a deployment whose form is a pipeline's, as the form in the UI does."""
        return self.run_deployment(deployment, {"spec": spec.model_dump(mode="json")})

    def run_deployment(self, deployment: str, parameters: dict[str, Any]) -> UUID:
        """Start a run of a deployment with these parameters."""
        with self.client as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def retry(self, run_id: UUID) -> None:
        """Do what the button Retry does, as soon as a person can: the worker crashes a dead run twice, 3 s apart."""
        time.sleep(5)
        with self.client as client:
            client.set_flow_run_state(run_id, Scheduled(name="AwaitingRetry"), force=True)

    def run(self, run_id: UUID) -> FlowRun | None:
        """Return the flow run, or None while the server does not answer."""
        with contextlib.suppress(Exception), self.client as client:
            return client.read_flow_run(run_id)
        return None

    def wait_for_state(self, run_id: UUID, state: str, seconds: float = 180.0) -> FlowRun:
        """Return the flow run once it is in this state; any other end is an error."""

        def look() -> FlowRun | None:
            run = self.run(run_id)
            if run is None or run.state is None or run.state_name == state:
                return run if run is not None and run.state_name == state else None
            assert not run.state.is_final(), f"{run.state_name}: {run.state.message}\n{self.logs()}"
            return None

        return wait_for(look, f"run in state {state}", seconds)

    def logs(self) -> str:
        """Return the ends of the node's logs."""
        files = sorted((self.base / "node").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in files)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return the processes of this node whose command line has all of `words`."""
        return [process for process in self._processes() if set(words) <= set(command_line(process))]

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get("NANOCHAT_BASE_DIR") == str(self.base)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def ranks(self) -> list[psutil.Process]:
        """Return the ranks that pretrain, without torchrun and the guard."""
        starters = {"torch.distributed.run", "flows.guard"}
        return [rank for rank in self.processes(PRETRAIN) if not starters & set(command_line(rank))]

    def agent(self) -> psutil.Process:
        return next(
            p for p in self.processes(PRETRAIN, "torch.distributed.run") if "flows.guard" not in command_line(p)
        )

    def flow_process(self, run_id: UUID) -> psutil.Process:
        """Return the process that runs the flow."""
        return psutil.Process(run_lock.living(self.base)[str(run_id)])

    def worker(self) -> psutil.Process:
        return self.processes("prefect", "worker")[0]

    def prefect_server(self) -> psutil.Process:
        return next(p for p in self.processes("prefect", "server") if "flows.guard" not in command_line(p))

    def mlflow_server(self) -> psutil.Process:
        return next(p for p in self.processes("mlflow", "server") if "flows.guard" not in command_line(p))

    def pretraining(self) -> Path | None:
        """Return the folder of the pretraining that runs, or ran last."""
        folders = sorted(self.base.glob("artifacts/pretrain/*/spec.json"), key=lambda path: path.stat().st_mtime)
        return folders[-1].parent if folders else None

    def steps(self) -> list[int]:
        """Return the steps that the pretraining has measured, as they were written last."""
        folder = self.pretraining()
        return [int(line["step"]) for line in read_metrics(folder / "metrics.jsonl")] if folder else []

    def attempts(self) -> int:
        """Return how often the pretraining was started."""
        folder = self.pretraining()
        assert folder is not None
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return max(line["attempt"] for line in lines)

    def checkpoints(self) -> list[str]:
        folder = self.pretraining()
        return sorted(path.name for path in folder.glob("checkpoints/step_*")) if folder else []

    def wait_until_in_the_middle(self) -> None:
        """Return when pretraining has begun, has saved a checkpoint, and has far to go."""
        wait_for(lambda: self.ranks() and self.checkpoints() and self.steps()[-1:], "pretraining in full swing", 120)

    def wait_until_nothing_trains(self, seconds: float = 40.0) -> None:
        """Return when no process of a stage lives."""
        wait_for(lambda: not self.processes(PRETRAIN), "end of all processes of the stage", seconds)

    def forget_pretraining(self) -> None:
        """Have the next run pretrain from the start."""
        for path in self.base.glob("artifacts/pretrain"):
            path.rename(self.base / f"forgotten-{time.monotonic_ns()}")


PRETRAIN = "nanochat_core.stages.pretrain"


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill(process: psutil.Process) -> None:
    """kill -9."""
    process.send_signal(signal.SIGKILL)
