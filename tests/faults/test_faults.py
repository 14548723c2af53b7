"""Every fault once, on a real node. benchmarks/faults.py does each five times."""

import pytest

from tests.faults.faults import FAULTS
from tests.faults.live_node import LiveNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_pretraining_costs_nothing_that_was_done(node: LiveNode, fault: str) -> None:
    FAULTS[fault](node)
