"""A real Prefect server for all tests of the flows, and stages that cost nothing."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nanochat_core.errors import StageFailed
from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes

SERVER_SECONDS = 60.0


def pytest_configure(config: pytest.Config) -> None:
    """Give Prefect a home of its own: it reads the environment when it is imported, before any fixture runs."""
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="nanochat-test-prefect-")
    os.environ |= {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"  # it would outlive the server, and wait for it at the end
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "NANOCHAT_DEVICE"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The API's address of a real server on loopback; flows of this process report to it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(url)
        # The heartbeat costs each flow run a second at its end.
        os.environ["PREFECT_API_URL"] = url  # for the command, and for processes that tests start
        with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield url
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        server.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"no Prefect server at {url} after {SERVER_SECONDS:g} s")


class FakeStages:
    """Every stage of the pipeline, replaced by a fake one; knows which of them ran."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self._monkeypatch = base, monkeypatch
        self._log = base / "fake.log"
        monkeypatch.setenv("FAKE_LOG", str(self._log))

    def ran(self) -> list[str]:
        """Return the stages whose processes started since the last call."""
        names = self._log.read_text().split() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return names

    def fail(self, stage: str, failure: str) -> None:
        self._monkeypatch.setenv("FAKE_FAIL_STAGE", stage)
        self._monkeypatch.setenv("FAKE_FAILURE", failure)

    def heal(self) -> None:
        self._monkeypatch.delenv("FAKE_FAIL_STAGE")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty base folder."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    (tmp_path / "base").mkdir()
    return tmp_path / "base"


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests: MLflow takes seconds to create its tables."""
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    MlflowClient(store).search_experiments()
    return store


def replace_stages(base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    """Have every stage run tests.flows.fake_stages.stage instead of its module, and fetch nothing before it."""
    from flows.launch import StageProcess
    from flows.shard_tasks import ShardTasks

    def command(process: StageProcess) -> list[str]:
        return [sys.executable, "-m", "tests.flows.fake_stages.stage", str(process.folder / "spec.json")]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(StageProcess, "command", property(command))
    monkeypatch.setattr(ShardTasks, "fetch", lambda *_: [])
    return FakeStages(base, monkeypatch)


@pytest.fixture
def fake_stages(base: Path, prefect_server: str, mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    """Fake stages and an empty base folder."""
    return replace_stages(base, mlflow_store, monkeypatch)


@pytest.fixture(scope="session")
def short_spec() -> PipelineSpec:
    """The demo without the stages that recipes may leave out."""
    return recipe("demo").model_copy(update={"midtrain": None, "rl": None})


@pytest.fixture(scope="session")
def finished_base(
    prefect_server: str, mlflow_store: str, short_spec: PipelineSpec, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A base folder in which `short_spec` has been run, secrets in sight; pretraining crashed once."""
    from flows.pipeline import pipeline

    base = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
        for name in ("HF_TOKEN", "MLFLOW_RUN_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "hidden")
        fakes = replace_stages(base, mlflow_store, monkeypatch)
        fakes.fail("pretrain", "crash")
        with pytest.raises(StageFailed):
            pipeline(with_changes(short_spec, {"run_name": "broken"}))
        fakes.heal()
        pipeline(with_changes(short_spec, {"run_name": "finished"}))
    return base


@pytest.fixture
def finished(finished_base: Path, fake_stages: FakeStages) -> FakeStages:
    """Fake stages and a copy of the finished base folder."""
    shutil.copytree(finished_base, fake_stages.base, symlinks=True, dirs_exist_ok=True)
    fake_stages.ran()
    return fake_stages
