"""OpenAI's own client against our server."""

import concurrent.futures
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.deployments.serving import openai_contract
from tests.deployments.serving.conftest import KEY
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import LiveServer, running_server

OLD_CLIENT = "openai>=2,<3"


@pytest.fixture(scope="module")
def client(shared: LiveServer) -> Any:
    return openai_contract.client_of(shared.url, KEY)


@pytest.mark.parametrize("demand", openai_contract.DEMANDS, ids=lambda demand: demand.__name__)
def test_the_newest_client(client: Any, demand: Callable[[Any], None]) -> None:
    demand(client)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_client_of_release_2(shared: LiveServer, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path), OLD_CLIENT]
    subprocess.run(install, check=True, timeout=600)
    script = [sys.executable, openai_contract.__file__, shared.url, KEY]
    done = subprocess.run(script, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("openai 2.") and "demands are met" in done.stdout, done.stdout + done.stderr


def test_an_error_in_the_middle_of_a_stream_is_an_error_of_the_client() -> None:
    engine = FakeEngine()
    engine.fail_after(4)
    with running_server(engine) as live:
        client = openai_contract.client_of(live.url, "none")
        stream = client.chat.completions.create(model="fake", messages=openai_contract.USER, stream=True)
        texts = []
        with pytest.raises(openai.APIError, match="The model failed") as caught:
            for chunk in stream:
                texts.append(chunk.choices[0].delta.content or "")
        assert "".join(texts) == "You " and caught.value.code == "engine_failed"
        again = client.chat.completions.create(model="fake", messages=openai_contract.USER)
        assert again.choices[0].message.content == openai_contract.ANSWER  # one broken request takes nobody along


@pytest.mark.parametrize("stream", [False, True])
def test_failures_and_a_full_line_are_the_clients_errors(stream: bool) -> None:
    engine = FakeEngine(clock=TokenClock.stopped(), max_running=1, max_waiting=1)
    with running_server(engine) as live, concurrent.futures.ThreadPoolExecutor() as pool:
        client = openai_contract.client_of(live.url, "none")

        def ask() -> Any:
            return client.chat.completions.create(model="fake", messages=openai_contract.USER, stream=stream)

        engine.fail_after(0)
        broken = pool.submit(ask)
        wait_until(lambda: engine.stats().running == 1)
        others = [pool.submit(ask)]
        wait_until(lambda: engine.stats().waiting == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            ask()
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        engine.clock.run()
        if not stream:  # a stream may have begun, and then ends with the error
            with pytest.raises(openai.InternalServerError) as caught:
                broken.result()
            assert (caught.value.status_code, caught.value.code) == (500, "engine_failed")
        for other in others:
            other.result()
