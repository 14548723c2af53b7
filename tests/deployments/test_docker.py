"""The image and the compose file: checked against the compose specification and the project; no daemon."""

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nanochat_core.artifacts import read_json

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deployments" / "docker"
SCHEMA = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"


def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) of each line of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_the_compose_file_holds_to_the_specification() -> None:
    schema = read_json(Path(str(SCHEMA)))
    jsonschema.validate(compose(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose() | {"services": {"prefect": {"imagee": "x"}}}, schema)


@pytest.mark.skipif(
    not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="docker compose is not installed; the file is checked against its schema without it",
)
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_docker_compose_reads_the_file(profile: str) -> None:
    command = ["docker", "compose", "--file", str(FOLDER / "compose.yaml"), "--profile", profile, "config", "--quiet"]
    subprocess.run(command, check=True)


def test_ports_are_published_on_loopback_only_and_volumes_have_names() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose()["volumes"], name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["cap_drop"] == ["ALL"], name


def test_the_worker_waits_for_servers_at_the_addresses_that_they_have() -> None:
    services = compose()["services"]
    worker = services["worker"]
    assert worker["depends_on"].keys() == {"prefect", "mlflow"}
    assert worker["environment"]["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert worker["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert "4200" in services["prefect"]["command"] and "--port=5000" in services["mlflow"]["command"]
    assert "--allowed-hosts=mlflow:5000,localhost:5000,127.0.0.1:5000" in services["mlflow"]["command"]
    assert (PROJECT / worker["command"][1]).is_file()
    assert services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_image_copies_what_there_is_and_runs_without_root() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [source for name, arguments in instructions() if name == "COPY" for source in arguments.split()[:-1]]
    for source in copied:
        assert (PROJECT / source).exists(), source
        assert f"!{source}" in ignored, source
    assert {"flows", "nanochat_core", "tasks_eval", "deployments", "prefect.yaml"} <= set(copied)
    assert ("USER", "1000") in instructions()
    assert next(name for name, _ in reversed(instructions()) if name in ("USER", "RUN")) == "USER"
    assert all(":" in arguments for name, arguments in instructions() if name == "FROM")


def test_the_image_has_the_version_that_every_file_names() -> None:
    version = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    images = {service["image"] for service in compose()["services"].values()}
    assert images == {f"nanochat:{version[1]}"}
    assert f"-t nanochat:{version[1]} ." in (FOLDER / "Dockerfile").read_text()
    kustomization = yaml.safe_load((PROJECT / "deployments" / "kubernetes" / "kustomization.yaml").read_text())
    assert kustomization["images"][0]["newTag"] == version[1]
