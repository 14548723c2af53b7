"""The serving flow: it publishes what it serves, is known to the rest of the project, and gives way to a newer one."""

import contextvars
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State

from flows import doctor_serving
from flows.gc import Rules, collect, survey
from flows.model_ref import find_model
from flows.node.up import farewells
from flows.prefect_server import free_port
from flows.promotion.registry import place_for
from flows.run_lock import living
from flows.serve import model_to_serve, serve
from flows.serving import process as serving_process
from flows.serving import record as serving_record
from flows.serving.record import STATUS, ServerStatus
from flows.serving.watch import WatchRules
from flows.tracking_store import Store
from nanochat_core.errors import NanochatError, SpecError
from nanochat_core.serve_spec import DefaultSampling, ServerOptions
from tests.flows.conftest import FakeStages
from tests.flows.tracked import wait_until

QUICK = WatchRules(health_seconds=0.1, restart_seconds=0.01)


@pytest.fixture
def fakes(finished: FakeStages, monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    """A finished base folder in which every server is a fake one."""
    monkeypatch.setattr(serving_process, "MODULE", "tests.flows.fake_server")
    monkeypatch.setattr("flows.serving.watch.LOOK_SECONDS", 0.02)
    return finished


class Run:
    """A run of the serving flow in a thread of its own."""

    def __init__(self, port: int, **parameters: Any) -> None:
        self.state: State[Any] | None = None
        context = contextvars.copy_context()

        def work() -> None:
            server = ServerOptions(port=port)
            self.state = context.run(serve, "sft", server, QUICK, return_state=True, **parameters)  # type: ignore[call-overload]

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def end(self) -> tuple[str, str]:
        """Return the name and the message of the state in which the run has ended."""
        self._thread.join(60)
        assert self.state is not None, "the flow has not ended"
        return self.state.name or "", self.state.message or ""


def folders(base: Path) -> list[Path]:
    return list(serving_record.living(base))


def state_of(folder: Path) -> str:
    status = ServerStatus.read(folder / STATUS)
    return status.state if status else ""


def artifacts_of(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [str(one.data) for one in sorted(found, key=lambda one: str(one.created))]


def served_tags(base: Path, port: int) -> list[str]:
    client = Store(base).client
    versions = client.search_model_versions("name = 'nanochat-demo-sft'")
    return [version.tags[f"served.{port}"] for version in versions if f"served.{port}" in version.tags]


def until(is_so: Callable[[], Any]) -> None:
    wait_until(is_so, 60)


def test_a_model_is_served_published_and_kept_until_a_newer_run_takes_the_port(fakes: FakeStages) -> None:
    base, port = fakes.base, free_port()
    endpoint = f"endpoint-{port}"
    first = Run(port)
    until(lambda: artifacts_of(endpoint) and served_tags(base, port))
    (page,) = artifacts_of(endpoint)
    url = f"http://127.0.0.1:{port}"
    assert f'OpenAI(base_url="{url}/v1"' in page and f"curl {url}/v1/chat/completions" in page
    assert "Its first answer: `84`" in page and "| pretrain |" in page
    assert any(url in link for link in artifacts_of("chat-page"))
    assert url in served_tags(base, port)[0]

    (folder,) = folders(base)
    assert [finding.found for finding in doctor_serving.servers(base)] == [
        f"sft: ready, by the flow run 'serve sft on port {port}', at {url}"
    ]
    assert list(farewells(base, living(base))) == [
        f"Stopping the server of sft on port {port}; its answers have a moment to finish …"
    ]
    found = {artifact.folder: artifact for artifact in survey(base, Rules(keep_runs=0, keep_days=0))}
    assert found[find_model("sft", base).tokenizer].why == "being served"
    assert list(collect(base, [])) == []  # a run that serves does not forbid it

    second = Run(port)
    name, message = first.end()
    assert (name, f"Port {port} was taken over by the flow run 'serve sft on port {port}'" in message) == (
        "Replaced",
        True,
    )
    until(lambda: len(artifacts_of(endpoint)) == 3)  # the newer one's, and the older one's farewell
    (newer,) = folders(base)
    status = ServerStatus.read(newer / STATUS)
    assert newer != folder and status is not None and status.pid is not None
    assert httpx.get(f"{url}/health").json() == {"served by": status.pid}
    os.kill(status.pid, signal.SIGTERM)
    assert second.end() == ("Stopped", f"The server on port {port} was stopped from outside.")
    assert folders(base) == [] and served_tags(base, port) == []


def test_a_server_that_fails_its_first_question_fails_the_run_and_is_gone(
    fakes: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()

    def refuse(*_: Any, **__: Any) -> str:
        raise NanochatError("The new server failed its smoke test")

    monkeypatch.setattr("flows.serve.first_answer", refuse)
    name, message = Run(port).end()
    assert (name, message.endswith("NanochatError: The new server failed its smoke test")) == ("Failed", True)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    assert artifacts_of(f"endpoint-{port}") == []


def test_without_a_name_the_champion_is_served_and_without_one_the_newest_chat_model(fakes: FakeStages) -> None:
    base, sft = fakes.base, find_model("sft", fakes.base)
    assert model_to_serve(None, base) == sft
    place = place_for(base, stage="sft", name=None, alias="champion")
    place.move(place.enter(find_model("base", base).model), after=None, base=base)
    try:
        assert model_to_serve(None, base) == find_model("base", base)
        assert model_to_serve("sft", base) == sft
    finally:
        place.store.client.delete_registered_model(place.name)


def test_options_that_do_not_fit_together_are_refused_before_anything_starts(fakes: FakeStages) -> None:
    with pytest.raises(SpecError, match=r"sampling.max_tokens: 5000 is more than limits.max_tokens allows"):
        serve("sft", ServerOptions(sampling=DefaultSampling(max_tokens=5000)))
    assert folders(fakes.base) == []
