"""What `nanochat up` keeps running, and where."""

import configparser
import socket
from pathlib import Path

import pytest

from flows.node import addresses
from flows.node.addresses import Node
from flows.node.services import server_environment, write_configuration
from nanochat_core.errors import NanochatError


def node_of(base: Path, **changes: str) -> Node:
    return addresses.describe(base, **{"host": "127.0.0.1", "prefect_port": 4200, "mlflow_port": 5000} | changes)


def sections(node: Node) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    parser.read(write_configuration(node))
    return {name.removeprefix("program:"): dict(parser[name]) for name in parser.sections()}


@pytest.fixture(autouse=True)
def no_servers_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_servers_stand_under_the_guard_on_loopback_and_the_worker_outside_of_it(tmp_path: Path) -> None:
    found = sections(node_of(tmp_path / "100 % base"))
    assert found.keys() == {"supervisord", "prefect", "mlflow", "keeper", "worker"}
    for server, port in (("prefect", 4200), ("mlflow", 5000)):
        command = found[server]["command"]
        assert " -m flows.guard " in command
        assert f"--host 127.0.0.1 --port {port}" in command
    assert "flows.guard" not in found["worker"]["command"]
    assert "100 %% base" in found["mlflow"]["command"]  # a variable of supervisord's otherwise
    order = [int(found[name]["priority"]) for name in ("prefect", "mlflow", "keeper", "worker")]
    assert order == sorted(order)  # the worker starts last and stops first


def test_servers_of_the_user_are_used_and_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://head:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example/mlflow/")
    node = node_of(tmp_path)
    assert sections(node).keys() == {"supervisord", "keeper", "worker"}
    assert node.environment["PREFECT_API_URL"] == "http://head:4200/api"
    assert node.environment["MLFLOW_TRACKING_URI"] == "https://tracking.example/mlflow"


def test_a_server_that_listens_everywhere_is_reached_on_loopback(tmp_path: Path) -> None:
    node = node_of(tmp_path, host="0.0.0.0")
    assert node.prefect.url == "http://127.0.0.1:4200"
    assert "--host 0.0.0.0" in sections(node)["prefect"]["command"]


def test_the_page_asks_no_other_host_and_finds_its_api_through_a_tunnel(tmp_path: Path) -> None:
    environment = server_environment(node_of(tmp_path))
    assert environment["PREFECT_SERVER_UI_V2_ENABLED"] == "false"
    assert environment["PREFECT_SERVER_UI_API_URL"] == "/api"


def test_a_taken_port_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        node = addresses.describe(tmp_path, host="127.0.0.1", prefect_port=port, mlflow_port=5000)
        with pytest.raises(NanochatError, match=rf"Port {port} .* Choose another with --prefect-port"):
            addresses.check_port(node, node.prefect, "--prefect-port")


def test_only_a_supervisor_of_this_base_folder_counts_as_running(tmp_path: Path) -> None:
    assert addresses.running(tmp_path) is None
    node = node_of(tmp_path)
    write_configuration(node)
    node.save()
    (node.folder / "supervisord.pid").write_text("1")  # another process by now
    assert addresses.running(tmp_path) is None
