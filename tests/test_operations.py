"""Every command in the pages is parsed by the program that it calls, or checked against the files it names."""

import re
import shlex
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli._app import _app as prefect_app
from typer.main import get_command

from flows import cli
from flows.node import addresses, services
from nanochat_core import recipes

PROJECT = Path(__file__).parents[1]
PAGES = [
    PROJECT / "docs" / f"{name}.md"
    for name in ("operations", "own_data", "chat_training", "preferences", "serving", "evaluation")
]
SCRIPTS = ("deployments/slurm/train.sbatch", "deployments/slurm/worker.sbatch")


def commands() -> Iterator[list[str]]:
    """Yield the words of each line in the fenced blocks, without comments; a quote may go on in the next line."""
    for block in re.findall(r"```sh\n(.*?)```", "\n".join(page.read_text() for page in PAGES), re.DOTALL):
        begun = ""
        for line in block.replace("\\\n", " ").splitlines():
            begun += line
            try:
                words = shlex.split(begun, comments=True)
            except ValueError:  # no closing quotation
                begun += "\n"
                continue
            begun = ""
            if words:
                yield words
        assert not begun, f"a quote has no end: {begun}"


def deployment_names() -> set[str]:
    return {entry["name"] for entry in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]}


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    folder = PROJECT / "deployments" / "kubernetes"
    documents = [found for path in folder.glob("*.yaml") for found in yaml.safe_load_all(path.read_text())]
    return {
        (found["kind"].lower(), found["metadata"].get("name", "")): found for found in documents if "metadata" in found
    }


def check_nanochat(words: list[str]) -> None:
    """Parse the options as the command does, and apply changed fields to the recipe."""
    known: dict[str, Any] = get_command(cli.app).commands  # type: ignore[attr-defined]
    name, *arguments = words
    assert name in known, f"no command {name}"
    command = known[name]
    if hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, list(arguments))
    if "recipe" in context.params and "changes" in context.params:
        keys = ("data", "data_path", "changes", "force", "nproc_per_node", "run_name")
        given = {"data": None, "data_path": None, **{key: context.params.get(key) for key in keys}}
        recipes.resolve(cli.build_spec(context.params["recipe"], **given))


def check_prefect(words: list[str]) -> None:
    ids = [str(uuid.UUID(int=0)) if word == "RUN_ID" else word for word in words]
    command, *_ = prefect_app.parse_args(ids, exit_on_error=False, print_error=False)
    assert command.__module__.startswith("prefect.cli."), f"no command {words}"
    if words[:2] == ["deployment", "run"]:
        flow, _, name = words[2].partition("/")
        assert flow == "nanochat" and name in deployment_names()
        variables = [words[i + 1].split("=")[0] for i, word in enumerate(words) if word == "--job-variable"]
        template = yaml.safe_load((PROJECT / "deployments/work_pools/kubernetes.json").read_text())
        assert set(variables) <= template["variables"]["properties"].keys()


def check_mlflow(words: list[str]) -> None:
    """Compare with the server that `nanochat up` starts, which other tests run: importing MLflow's takes seconds."""
    node = addresses.describe(PROJECT, host="127.0.0.1", prefect_port=4200, mlflow_port=5000)
    known = services.mlflow_server(node)
    assert words[0] == "server"
    assert {word for word in words if word.startswith("--")} <= set(known)


def check_kubectl(words: list[str]) -> None:
    """Check the verb, and that files, and objects by kind/name, are ours."""
    if words[0] == "--namespace":
        assert ("namespace", words[1]) in manifests()
        words = words[2:]
    verb, *rest = words
    assert verb in {"apply", "create", "kustomize", "rollout", "port-forward", "get", "logs", "exec"}, verb
    for word in rest:
        if word.startswith("deployments/"):
            assert (PROJECT / word).exists(), word
        elif match := re.fullmatch(r"(deployment|service)/(\w+)", word):
            assert match.groups() in manifests(), word
    if verb == "port-forward":
        local, remote = rest[1].split(":")
        service = manifests()["service", rest[0].split("/")[1]]
        assert local == remote == str(service["spec"]["ports"][0]["port"])
    if "--" in rest:
        check(rest[rest.index("--") + 1 :])


def check_sbatch(words: list[str]) -> None:
    options = [word for word in words if word.startswith("--nodes=")]
    script, *arguments = words[len(options) :]
    assert script in SCRIPTS and (PROJECT / script).exists()
    if arguments:
        check_nanochat(["run", *arguments])


def check_docker(words: list[str]) -> None:
    verb, *rest = words
    file = PROJECT / rest[rest.index("-f") + 1]
    assert file.exists()
    if verb == "build":
        assert rest[-1] == "."
        return
    assert verb == "compose"
    found = yaml.safe_load(file.read_text())
    profile = rest[rest.index("--profile") + 1]
    assert profile in {name for service in found["services"].values() for name in service.get("profiles", [])}
    action, *names = rest[rest.index(profile) + 1 :]
    assert action in {"up", "logs", "down"}
    assert all(name in found["services"] for name in names if not name.startswith("--"))


def check_ssh(words: list[str]) -> None:
    assert words[0] == "-N" and words.count("-L") == 2
    for i, word in enumerate(words):
        if word == "-L":
            assert re.fullmatch(r"(4200|5000):[\d.]+:\1", words[i + 1]), words[i + 1]


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def check_systemd(words: list[str]) -> None:
    units = [word for word in words if word.endswith(".service")]
    assert units and all((PROJECT / "deployments" / "systemd" / unit).exists() for unit in units)


def check_export(words: list[str]) -> None:
    known = ("NANOCHAT_BASE_DIR", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI")
    name, _, value = words[0].partition("=")
    assert name in known and value
    assert name != "PREFECT_API_URL" or value.endswith(":4200/api")
    assert name != "MLFLOW_TRACKING_URI" or value.endswith(":5000")


def check_copy(words: list[str]) -> None:
    assert (PROJECT / words[0]).exists()


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "nanochat": check_nanochat,
    "prefect": check_prefect,
    "mlflow": check_mlflow,
    "kubectl": check_kubectl,
    "sbatch": check_sbatch,
    "docker": check_docker,
    "ssh": check_ssh,
    "make": check_make,
    "systemctl": check_systemd,
    "journalctl": check_systemd,
    "export": check_export,
    "cp": check_copy,
}
# Of other programs, only these very lines.
AS_THEY_ARE = {
    "git pull",
    "loginctl enable-linger",
    "ls /data/artifacts",
    "mkdir -p ~/.config/systemd/user",
    "rsync --archive ~/.cache/nanochat/ backup:/nanochat/",
    "scancel JOB_ID",
    "squeue --me",
}


def check(words: list[str]) -> None:
    if " ".join(words) not in AS_THEY_ARE:
        assert words[0] in CHECKS, f"{words[0]}: teach this test to check it"
        CHECKS[words[0]](words[1:])


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_of_the_pages_is_one_that_exists(words: list[str]) -> None:
    check(words)


def test_each_kind_of_place_has_its_page() -> None:
    titles = re.findall("^## (.+)$", PAGES[0].read_text(), re.MULTILINE)
    assert titles == ["A laptop", "A GPU node", "A Kubernetes cluster", "A Slurm cluster"]


def test_the_commands_in_the_text_exist_as_well() -> None:
    text = re.sub(r"```.*?```", "", PAGES[0].read_text(), flags=re.DOTALL)
    found = [shlex.split(code) for code in re.findall(r"`((?:nanochat|prefect) [^`]+)`", text)]
    assert len(found) > 5
    for words in found:
        if words[0] == "nanochat" and len(words) == 2:  # a command's name alone
            assert words[1] in get_command(cli.app).commands  # type: ignore[attr-defined]
            continue
        check([re.sub("^RUN$", "a-run", word) for word in words])


@pytest.mark.parametrize(
    "line",
    [
        "nanochat run demo --set pretrain.model.dept=6",
        "nanochat up --hots 10.0.0.5",
        "prefect deployment run nanochat/demmo",
        "prefect flow-rnu ls",
        "kubectl --namespace nanochat logs deployment/wroker",
        "sbatch deployments/slurm/trian.sbatch",
        "docker compose -f deployments/docker/compose.yaml --profile tpu up",
        "rm -rf /",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r".") as failure:
        check(shlex.split(line))
    assert isinstance(failure.value, Exception)
