"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import tasks_eval

MODULES = [module.name for module in pkgutil.walk_packages(tasks_eval.__path__, "tasks_eval.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
