"""Every fault once, on a real node. benchmarks/faults.py does each five times."""

from collections.abc import Iterator

import pytest

from tests.faults.faults import FAULTS
from tests.faults.live_node import LiveNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNode]:
    """A node that is up."""
    node = LiveNode(tmp_path_factory.mktemp("node") / "base")
    node.up()
    yield node
    node.down()
    assert not node.processes(), [process.cmdline() for process in node.processes()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_pretraining_costs_nothing_that_was_done(node: LiveNode, fault: str) -> None:
    FAULTS[fault](node)
