"""Fixtures that more than one folder of tests uses."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_miniature import write_miniature
from tests.hub_server import HubServer

PROJECT = Path(__file__).parent.parent


OUTSIDE_SETTINGS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)


def pytest_configure(config: pytest.Config) -> None:
    """Keep a developer's own token, endpoint and cache of the Hub away from the tests and the processes they start.

    huggingface_hub reads its environment when it is imported, so a fixture would come too late.
    """
    for name in OUTSIDE_SETTINGS:
        os.environ.pop(name, None)
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="nanochat-test-hf-")
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # else it asks for a list of coding agents before its first request
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # for the stages that tests start by hand, as flows/launch.py has it


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def hub_miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the Hub's layout with made-up data of the real data sets' shapes."""
    return write_miniature(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub_server(hub_miniature: Path) -> Iterator[HubServer]:
    """The miniature, served to the real client on loopback."""
    with HubServer(hub_miniature) as server:
        yield server


@pytest.fixture(scope="session")
def hub_mirror() -> Path:
    """The mirror of real data ($NANOCHAT_TEST_HUB, else ../shared/hub); skips where there is none."""
    root = Path(os.environ.get("NANOCHAT_TEST_HUB") or PROJECT.parent / "shared" / "hub")
    if not (root / "datasets").is_dir():
        pytest.skip(f"no mirror of Hub data at {root}: set NANOCHAT_TEST_HUB")
    return root


@pytest.fixture
def mirror_server(hub_mirror: Path) -> Iterator[HubServer]:
    """The mirror of real data, served to the real client on loopback."""
    with HubServer(hub_mirror) as server:
        yield server
