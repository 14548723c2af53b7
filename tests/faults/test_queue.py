"""Two runs at once on a real node: trainings queue for the lock, whatever Prefect's limit says; the rest does not."""

import pytest

from flows import training_limit
from tests.faults.faults import DEPLOYMENT, STOP_SECONDS
from tests.faults.live_node import LiveNode, command_line, kill, long_spec, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def taken_slots(node: LiveNode) -> int:
    with node.client as client:
        return client.read_global_concurrency_limit_by_name(training_limit.name()).active_slots


def seeds_in_training(node: LiveNode) -> set[str]:
    """Return the folders of the stages whose ranks live."""
    return {command_line(rank)[-1] for rank in node.ranks() if command_line(rank)}


def test_a_second_training_waits_and_starts_when_the_first_ones_process_is_killed(node: LiveNode) -> None:
    first = node.start(DEPLOYMENT, long_spec())
    node.wait_until_in_the_middle()
    (training,) = seeds_in_training(node)
    second = node.start(DEPLOYMENT, long_spec(**{"pretrain.seed": 7}))
    waiting = wait_for(lambda: list(node.base.glob("artifacts/pretrain/*/.lock"))[1:], "second stage at its lock")
    assert waiting
    wait_for(lambda: taken_slots(node) == 1, "slot shown as taken")
    assert seeds_in_training(node) == {training}
    kill(node.flow_process(first))
    wait_for(lambda: seeds_in_training(node) - {training}, "second training", STOP_SECONDS)
    assert training not in seeds_in_training(node)
    node.wait_for_state(second, "Completed")
    wait_for(lambda: taken_slots(node) == 0, "slot shown as free")


def test_stages_of_cpu_work_of_two_runs_run_side_by_side(node: LiveNode) -> None:
    runs = [
        node.start("download/download", long_spec(**{"download.local_characters": 3_000_000 + number}))
        for number in range(2)
    ]
    module = "nanochat_core.data.download"
    wait_for(
        lambda: len({command_line(p)[-1] for p in node.processes(module) if command_line(p)}) == 2,
        "two downloads at once",
    )
    for run in runs:
        node.wait_for_state(run, "Completed")
