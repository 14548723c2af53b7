"""A server with a fake engine that the tests of one session share, and one for a test that needs its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deployments.serving import fresh
from tests.fake_engine import FakeEngine
from tests.live_server import LiveServer, running_server

KEY = "a-key-that-nobody-guesses"


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two API keys."""
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"# of the tests\nanother-key-that-nobody-guesses\n{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def shared_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="session")
def shared(key_file: Path, shared_engine: FakeEngine) -> Iterator[LiveServer]:
    """A server with API keys."""
    with running_server(shared_engine, api_keys_file=str(key_file)) as live:
        yield live


@pytest.fixture
def http(shared: LiveServer) -> Iterator[httpx.Client]:
    """A client of the shared server, with its key."""
    with fresh.Client(base_url=shared.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client
