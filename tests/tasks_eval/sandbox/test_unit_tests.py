"""Grading by unit tests: right code passes, in any wrapping, and no early end does."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks_eval.grading import grade
from tasks_eval.sandbox.unit_tests import full_program, run_unit_tests
from tasks_eval.task import make_task
from tests.task_data import mirror_task_data

PROMPT = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef double(x):\n    """Return twice x."""\n'
META: dict[str, Any] = {
    "grading": "unit_tests",
    "prompt": PROMPT,
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
}


@pytest.mark.parametrize(
    "completion",
    [
        "    return 2 * x\n",
        PROMPT + "    return 2 * x\n",
        "def double(x):\n    return helper(x) + x",
        "Here it is:\n```python\ndef double(x):\n    return helper(2 * x)\n```\nIt doubles x.",
        "```\nimport os\ndef double(x):\n    return int(math.ldexp(x, 1))\n",
    ],
)
def test_right_code_passes_in_any_wrapping(completion: str) -> None:
    verdict = run_unit_tests(META, completion)
    assert verdict.is_correct, verdict.note


@pytest.mark.parametrize(
    ("beginning", "note"),
    [
        ("", "AssertionError"),
        ("import sys\nsys.exit(0)\n", "ended before the tests did"),
        ("import os\nos._exit(0)\n", "ended before the tests did"),
        ("raise SystemExit\n", "ended before the tests did"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n", "killed by SIGTERM"),
        ("1/0\n", "ZeroDivisionError: division by zero"),
        ("raise ValueError(object())\n", "ValueError: <object object at 0x…>"),
        ("while True: print('x' * 1000)\n", "too much output"),
    ],
)
def test_wrong_code_fails_and_says_why(beginning: str, note: str) -> None:
    verdict = run_unit_tests(META, f"{beginning}def double(x):\n    return x\n")
    assert not verdict.is_correct
    assert verdict.note == note


def test_ending_inside_the_tests_is_no_pass() -> None:
    for ending in ("import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit(0)"):
        assert not run_unit_tests(META, f"def double(x):\n    {ending}\n").is_correct


def test_what_the_prompt_has_before_the_function_is_put_in_front() -> None:
    assert full_program(PROMPT, "double", "def double(x): ...").startswith("import math\n\n\ndef helper")


@pytest.mark.slow
@pytest.mark.hub
def test_all_canonical_solutions_pass(hub_mirror: Path) -> None:
    task = make_task("HumanEval", mirror_task_data(hub_mirror), "test")
    with ThreadPoolExecutor(2) as pool:
        verdicts = pool.map(
            lambda index: grade(task.meta(task[index]), task[index]["messages"][-1]["content"]), range(164)
        )
        assert [(number, verdict.note) for number, verdict in enumerate(verdicts) if not verdict.is_correct] == []
