"""prefect.yaml on a real server, with a real worker: what the UI does when it runs, and retries, a deployment."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from tests.flows.tiny import tiny

PROJECT = Path(__file__).parents[2]
RUN_SECONDS = 90.0


@pytest.fixture(scope="session")
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """The server, with the deployment of the tokenizer on a process work pool: all of them take 20 s."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="nanochat", type="process"), overwrite=True)
        deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "train-tokenizer"]
        environment = os.environ | {"PREFECT_API_URL": prefect_server}
        subprocess.run(deploy, cwd=PROJECT, env=environment, check=True, capture_output=True, timeout=90)
        yield client


@pytest.fixture
def worker(client: SyncPrefectClient, prefect_server: str, base: Path) -> Iterator[None]:
    """A worker that takes the flow runs of the pool; what it starts works in `base`.

    Without --limit: with one, Prefect 3.8.8 dies of a retry that comes before it has noticed the end of the attempt.
    """
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "nanochat"]
    environment = os.environ | {"PREFECT_API_URL": prefect_server, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with open(base / "worker.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # Prefect's worker now and then does not hear of it while it ends a run
            process.kill()
            process.wait()


def wait_for_end(client: SyncPrefectClient, run_id: UUID, attempt: int) -> FlowRun:
    """Return the flow run when its `attempt` has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        run = client.read_flow_run(run_id)
        if run.run_count >= attempt and run.state is not None and run.state.is_final():
            return run
        time.sleep(0.3)
    raise TimeoutError(f"the flow run did not end: {run.state}")


def state_names(client: SyncPrefectClient, run_id: UUID, count: int) -> list[tuple[str, str]]:
    """Return (stage, state) of the task runs of all attempts, in order, once `count` have reached the server."""
    deadline = time.monotonic() + 20
    while True:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        if len(tasks) >= count and all(task.state and task.state.is_final() for task in tasks):
            tasks.sort(key=lambda task: task.expected_start_time or task.created)
            return [(task.name, task.state_name or "") for task in tasks]
        assert time.monotonic() < deadline, [(task.name, task.state_name) for task in tasks]
        time.sleep(0.3)


@pytest.mark.slow
def test_a_retry_as_in_the_ui_reuses_what_is_finished_and_completes_what_failed(
    client: SyncPrefectClient, worker: None, base: Path
) -> None:
    obstacle = base / "artifacts" / "tokenizer"
    obstacle.parent.mkdir()
    obstacle.touch()  # a file where a folder must be: the tokenizer's stage fails
    deployment = client.read_deployment_by_name("train-tokenizer/train-tokenizer")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"spec": tiny().model_dump(mode="json")})
    first = wait_for_end(client, run.id, attempt=1)
    assert first.state_name == "Failed", (base / "worker.log").read_text()[-4000:]
    assert first.name.startswith("train-tokenizer-demo-d1 download.local_characters=200000 ")
    obstacle.unlink()
    client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"))
    second = wait_for_end(client, run.id, attempt=2)
    assert second.state_name == "Completed", (base / "worker.log").read_text()[-4000:]
    assert state_names(client, run.id, 4) == [
        ("download", "Completed"),
        ("tokenizer", "Failed"),
        ("download", "Cached"),
        ("tokenizer", "Completed"),
    ]


def test_the_server_knows_tags_description_and_form_of_a_deployment(client: SyncPrefectClient) -> None:
    deployment = client.read_deployment_by_name("train-tokenizer/train-tokenizer")
    assert deployment.tags == ["stage"]
    assert deployment.description == "Train the tokenizer on the pretraining text."
    assert deployment.parameter_openapi_schema["properties"]["spec"]["default"]["recipe"] == "demo"
