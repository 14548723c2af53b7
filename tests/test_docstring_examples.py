"""The examples in docstrings are run: each `>>>` in the packages gives what it says."""

import doctest
import importlib

import pytest

from tests.architecture_rules import PACKAGES
from tests.test_architecture import sources

MODULES = [module for module, source in sources(*PACKAGES).items() if ">>> " in source]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted > 0
    assert outcome.failed == 0
