"""The serving flow on a real node, with the real server, and clients that stream."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from flows.prefect_server import free_port
from flows.serving import record as serving_record
from flows.serving.record import STATUS, ServerStatus
from tests.faults.faults import cancel
from tests.faults.live_node import LiveNode, kill, wait_for
from tests.flows.chat_model import make_chat_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = 3000  # tokens of the answer that outlives its server's place
QUICK = {"health_seconds": 0.5, "restart_seconds": 0.1}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNode]:
    node = LiveNode(tmp_path_factory.mktemp("serving") / "base")
    node.base.mkdir()
    node.up()
    yield node
    node.down()
    assert not node.processes(), [process.cmdline() for process in node.processes()]


SAYS = ("abcdefgh", "stuvwxyz")  # what the two models say, again and again


@pytest.fixture(scope="module")
def models(node: LiveNode) -> list[Path]:
    """Two models that can speak for long."""
    return [
        make_chat_model(node.base, letter, says, is_endless=True, sequence_len=16_384)
        for letter, says in zip("ab", SAYS, strict=True)
    ]


class Stream:
    """A client that reads an answer as it comes, in a thread."""

    def __init__(self, url: str, tokens: int) -> None:
        self.text, self.end, self.error = "", "", ""
        self._thread = threading.Thread(target=self._read, args=(url, tokens))
        self._thread.start()

    def _read(self, url: str, tokens: int) -> None:
        body = question(max_tokens=tokens) | {"stream": True}
        try:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
                for line in reply.iter_lines():
                    self._take(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            self.error = repr(error)

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.end = data
        elif data:
            chunk = json.loads(data)
            self.error = str(chunk.get("error", self.error))
            for choice in chunk.get("choices", []):
                self.text += choice["delta"].get("content") or ""

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(300)
        assert not self.is_open


def question(max_tokens: int = 8) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "nanochat", "messages": messages, "max_tokens": max_tokens, "temperature": 0}


def start(node: LiveNode, model: Path, port: int, **parameters: Any) -> UUID:
    server = {"port": port, "drain_seconds": 120, "limits": {"max_tokens": 10_000}}
    return node.run_deployment("serve/serve", {"model": str(model), "server": server, "watch": QUICK} | parameters)


def served(node: LiveNode, run_id: UUID) -> tuple[Path, ServerStatus] | None:
    """Return the folder of a run's server, and what it says of itself, once it is ready."""
    for folder, record in serving_record.living(node.base).items():
        status = ServerStatus.read(folder / STATUS)
        if record.flow_run_id == str(run_id) and status and status.state == "ready":
            return folder, status
    return None


def wait_until_served(node: LiveNode, run_id: UUID) -> tuple[Path, ServerStatus]:
    def look() -> tuple[Path, ServerStatus] | None:
        run = node.run(run_id)
        assert not (run and run.state and run.state.is_final()), f"{run and run.state}\n{node.logs()}"
        return served(node, run_id)

    return wait_for(look, "server that is ready", 240)


def answer(url: str) -> str:
    reply = httpx.post(f"{url}/v1/chat/completions", json=question(), timeout=60)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def nothing_serves(node: LiveNode) -> bool:
    return not any("deployments.serving" in " ".join(process.cmdline()) for process in node.processes())


def is_published(node: LiveNode, run_id: UUID) -> bool:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with node.client as client:
        found = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    return {"chat-page"} < {artifact.key for artifact in found}


def test_a_deployment_serves_gives_way_while_a_client_streams_and_is_cancelled(
    node: LiveNode, models: list[Path]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    first = start(node, models[0], port)
    folder, _ = wait_until_served(node, first)
    assert answer(url) == SAYS[0]
    wait_for(lambda: is_published(node, first), "artifacts of the endpoint")

    second = start(node, models[1], port)
    said: list[str] = []
    is_over = threading.Event()
    asking = threading.Thread(target=ask_all_the_time, args=(url, is_over, said))
    asking.start()
    stream = keep_streaming(url, folder)
    wait_until_served(node, second)
    assert stream.is_open, "the stream was over before the other server came"
    stream.join()
    assert (stream.error, stream.end) == ("", "[DONE]")
    assert stream.text == (SAYS[0] * LONG)[:LONG]
    replaced = node.wait_for_state(first, "Replaced")
    assert replaced.state and f"({second})" in str(replaced.state.message)
    is_over.set()
    asking.join()
    assert set(said) == set(SAYS), set(said)  # every question had a right answer, of the one or of the other

    other = Stream(url, 10_000)  # it is cut short: a run that is cancelled does not wait for 10,000 tokens
    wait_for(lambda: other.text, "first words")
    cancel(node, second)
    node.wait_for_state(second, "Cancelled")
    wait_for(lambda: nothing_serves(node), "end of all servers", 45)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")
    other.join()


def keep_streaming(url: str, folder: Path) -> Stream:
    """Return a stream that is open when its server has been told to drain; one that ends before is begun again."""

    def is_draining() -> bool:
        status = ServerStatus.read(folder / STATUS)
        return status is not None and status.state == "draining"

    stream = Stream(url, LONG)
    deadline = time.monotonic() + 240
    while not is_draining():
        assert time.monotonic() < deadline
        if not stream.is_open:
            assert stream.error == ""
            stream = Stream(url, LONG)
        time.sleep(0.02)
    return stream


def ask_all_the_time(url: str, is_over: threading.Event, said: list[str]) -> None:
    """Ask short questions, each over a connection of its own; note what was answered, and what went wrong."""
    while not is_over.is_set():
        try:
            said.append(answer(url))
        except (httpx.HTTPError, AssertionError) as error:
            said.append(repr(error))
        time.sleep(0.05)


def test_a_model_that_says_nothing_fails_its_run_in_one_line_and_leaves_no_server(node: LiveNode) -> None:
    mute = make_chat_model(node.base, "c", "")
    port = free_port()
    run = node.wait_for_state(start(node, mute, port), "Failed", 240)
    assert run.state is not None
    assert str(run.state.message).endswith(
        "NanochatError: The new server failed its smoke test, 'What is 12*7?': an empty answer (finish_reason 'stop')."
    )
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")


def test_an_outage_of_prefect_does_not_matter_and_down_leaves_no_server(node: LiveNode, models: list[Path]) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    run_id = start(node, models[0], port)
    _, before = wait_until_served(node, run_id)
    for process in node.processes("flows.guard", "prefect"):
        process.suspend()  # nobody starts another
    server = node.prefect_server()
    server.suspend()
    try:
        kill_server(before)
        wait_for(lambda: (found := served(node, run_id)) and found[1].pid != before.pid, "server after a crash", 120)
        assert answer(url) == SAYS[0]
    finally:
        server.resume()
        for process in node.processes("flows.guard", "prefect"):
            process.resume()
    run = wait_for(lambda: node.run(run_id), "answer of Prefect's server")
    assert run.state_name == "Running"
    assert f"Stopping the server of sft/{models[0].name} on port {port}" in node.down()
    assert not node.processes()
    node.up()


def kill_server(status: ServerStatus) -> None:
    import psutil

    assert status.pid is not None
    kill(psutil.Process(status.pid))
