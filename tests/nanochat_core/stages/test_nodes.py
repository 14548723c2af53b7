"""Two machines, each with a torchrun of its own, compute the very bytes of two ranks on one machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import PROJECT, Workbench, final_bytes


def start_agent(folder: Path, port: int) -> "subprocess.Popen[str]":
    """Start the torchrun of one of two machines, both on loopback."""
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    stage = ["-m", "nanochat_core.stages.pretrain", str(folder / "spec.json")]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "--rdzv-id=two-nodes", *stage],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "NANOCHAT_DEVICE": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_two_agents_give_the_checkpoint_of_two_ranks_on_one_node(arch: str, bench: Workbench) -> None:
    model = stage_folders.tiny_model(arch=arch)
    one, two = (bench.pretrain(f"{arch}-{name}", steps=8, model=model) for name in ("one-node", "two-agents"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = [start_agent(two, port) for _ in range(2)]
    said = [agent.communicate(timeout=120)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    stage_folders.run(one, ranks=2)
    assert final_bytes(two) == final_bytes(one)
