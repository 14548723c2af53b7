"""A real node for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.faults.live_node import LiveNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNode]:
    """A node that is up; when the module is through, nothing of it is left."""
    node = LiveNode(tmp_path_factory.mktemp("node") / "base")
    node.up()
    yield node
    node.down()
    assert not node.processes(), [process.cmdline() for process in node.processes()]
