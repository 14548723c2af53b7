"""Grading by unit tests: right code passes, in any wrapping, and no early end does."""

import os
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks_eval.sandbox.inside.request import RLIMITS
from tasks_eval.sandbox.levels import LEVELS, probe
from tasks_eval.sandbox.process import Jailed, Limits, SandboxBroken, supervise
from tasks_eval.sandbox.unit_tests import full_program, run_unit_tests
from tasks_eval.task import make_task
from tasks_eval.verdict import Verdict
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
        "First:\n```bash\npip install x\n```\nThen:\n```Python\ndef double(x):\n    return 2 * x\n```\n",
        "Use ```x``` now.\n``` python3 title='a.py'\r\ndef double(x):\r\n    return 2 * x\r\n```\r\n",
        "So:\n~~~ python\nTILDES = '```'\ndef double(x):\n    return 2 * ~~~~x\n~~~\nIt doubles ~~~ x.",
        "~~~bash\npip install x\n~~~\n~~~\ndef double(x):\n    return 2 * x",
        "\ufeff    return 2 * x\n",
        "```python\n\ufeffdef double(x):\n    return 2 * x\n```",
        "```python\nfrom __future__ import annotations\ndef double(x: X) -> X:\n    return 2 * x\n```",
        "'''Doubles.'''\nfrom __future__ import (\n    annotations,\n)\ndef double(x: X):\n    return 2 * x\n",
        "So:\n  ```py\ndef double(x):\n    return 2 * x```",
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
        ("import os\nos.kill(os.getpid(), 40)\n", "killed by signal 40"),
        ("1/0\n", "ZeroDivisionError: division by zero"),
        ("raise ValueError(object())\n", "ValueError: <object object at 0x…>"),
        ("raise ValueError('\\ud800\\n\\x1b[1m')\n", "ValueError: \\ud800\\n\\x1b[1m"),
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


HELPED = {
    "prompt": "def twice(x):\n    return 2 * x\n\n\ndef quadruple(x):\n",
    "entry_point": "quadruple",
    "test": "def check(candidate):\n    assert candidate(3) == twice(twice(3)) == quadruple(x=3)\n",
}


def test_tests_may_use_what_the_prompt_defines_and_the_function_by_its_name() -> None:
    assert run_unit_tests(HELPED, "    return twice(twice(x))").is_correct


def verdict_of(test: str, function: str, **options: Any) -> Verdict:
    """Grade a function f by the lines of a `check`."""
    return run_unit_tests(
        {"prompt": "", "entry_point": "f", "test": f"def check(candidate):\n{test}"}, function, **options
    )


CHANGES = "def f(s, d):\n    s.clear()\n    d[3] = 4\n    del d[1]"


@pytest.mark.parametrize(
    ("test", "function", "note"),
    [
        ("    assert candidate() == (1, 2)", "def f(): return 1, 2", ""),
        ("    assert candidate() == (1, 2)", "def f(): return [1, 2]", "AssertionError"),
        ("    assert candidate([{1: None}], x={2.5}) == ([{1: None}], {2.5})", "def f(a, x): return a, x", ""),
        ("    assert candidate() == {'a': 2}", "import collections\ndef f(): return collections.Counter('aa')", ""),
        ("    assert candidate() == [0, 1]", "def f(): return range(2)", "TypeError: range is not plain data"),
        ("    candidate(len)", "def f(x): pass", "TypeError: builtin_function_or_method is not plain data"),
        (
            "    try: candidate()\n    except ValueError as e: assert str(e) == 'a'",
            "def f(): raise ValueError('a')",
            "",
        ),
        ("    candidate()", "class E(Exception): pass\ndef f(): raise E('a')", "RuntimeError: E: a"),
        ("    try: candidate()\n    except: pass", "import os\ndef f(): os._exit(0)", "ended before the tests did"),
        (
            "    try: candidate()\n    except BaseException: pass",
            "def f(): raise SystemExit",
            "ended before the tests did",
        ),
        ("    raise SystemExit(0)", "def f(): pass", "SystemExit: 0"),
        ("    import os; os._exit(0)", "def f(): pass", "the tests ended without a verdict"),
        pytest.param(
            *("    while True: pass", "def f(): pass", "the tests ended without a verdict"), marks=pytest.mark.slow
        ),
        ("    l = [2, 1]; candidate(l); assert l == [2, 1]", "def f(x): x.sort()", "AssertionError"),
        ("    l = [2, 1]; candidate(x=l); assert l == [1, 2]", "def f(x): x.sort()", ""),
        ("    s = {1}; d = {1: 2}; candidate(s, d); assert (s, d) == (set(), {3: 4})", CHANGES, ""),
        ("    candidate([1])", "def f(x): x.append(f)", "TypeError: function is not plain data"),
        ("    candidate()", "g = 1", "AttributeError: module 'solution' has no attribute 'f'"),
    ],
)
def test_only_plain_data_and_exceptions_cross_the_pipe(test: str, function: str, note: str) -> None:
    assert verdict_of(test, function, limits=Limits(cpu_seconds=1)).note == note


@pytest.mark.parametrize("level", LEVELS)
def test_an_exit_code_is_not_taken_for_a_signal_that_does_not_exist(level: str) -> None:
    if trouble := probe(level):
        pytest.skip(trouble)
    verdict = verdict_of("    candidate()", "import os\ndef f(): os._exit(200)", level=level)
    assert verdict.note == "ended before the tests did"


@pytest.mark.parametrize("words", [b"[]", b"null", b"[" * 4000])
def test_tests_that_speak_for_their_process_give_no_verdict(words: bytes) -> None:
    attempt = f"try: os.write(n, {words!r})\n        except OSError: pass"
    speak = f"    import os\n    for n in range(3, 30):\n        {attempt}\n    os._exit(0)"
    assert verdict_of(speak, "def f(): pass").note == "the tests ended without a verdict"


def test_tests_that_draw_numbers_draw_the_same_each_time() -> None:
    test = "    import random\n    assert 0, [random.random(), list({str(n) for n in range(20)})]"
    assert len({verdict_of(test, "def f(): pass").note for _ in range(2)}) == 1


def test_an_answer_that_is_too_long_fails() -> None:
    assert verdict_of("    assert len(candidate()) == 10**6", "def f(): return 'x' * 10**6").is_correct
    assert verdict_of("    candidate()", "def f(): return 'x' * 1_100_000").note == "the answer is too long"


def test_a_right_program_may_print_more_than_is_kept() -> None:
    function = "def f():\n    for n in range(9999): print('This is number', n)\n    return 1"
    assert verdict_of("    assert candidate() == 1", function).note == ""


def test_without_descriptors_to_spare_a_verdict_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it runs out of them, and nothing stays open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, notes = sorted(os.listdir("/proc/self/fd")), set[str]()
    try:
        for spare in range(1, 13):
            monkeypatch.setattr(tempfile, "tempdir", None)  # as in a process that has made no such file
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + spare, limits[1]))
            try:
                notes.add(run_unit_tests(META, "    return 2 * x", level=RLIMITS).note)
            except SandboxBroken as error:
                notes.add(error.reason)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {"", "[Errno 24] Too many open files"} < notes
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_no_program_runs_before_the_tests_are_behind_their_walls() -> None:
    """Else it could read what is expected while they start."""
    (asked, calls), (_, told) = pipes = os.pipe(), os.pipe()
    options = {"source": "print('runs')\ndef f(): pass", "entry_point": "f"}
    with Jailed("candidate", RLIMITS, Limits(), options, (asked, told)) as candidate:
        os.close(calls)  # they end before they could say so
        assert supervise(candidate) == "exited" and candidate.output == b""
    for end in (asked, *pipes[1]):
        os.close(end)


def without_body(prompt: str) -> str:
    return f"{prompt}\n    pass\n"


@pytest.mark.slow
@pytest.mark.hub
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", LEVELS)
def test_all_canonical_solutions_pass_and_none_without_its_body(hub_mirror: Path, level: str) -> None:
    if trouble := probe(level):
        pytest.skip(trouble)
    task = make_task("HumanEval", mirror_task_data(hub_mirror), "test")
    examples = [task[index] for index in range(len(task))]
    metas = [task.meta(example) for example in examples]
    with ThreadPoolExecutor(2) as pool:

        def notes(texts: list[str]) -> list[str]:
            return [verdict.note for verdict in pool.map(lambda m, t: run_unit_tests(m, t, level=level), metas, texts)]

        solved = notes([example["messages"][-1]["content"] for example in examples])
        empty = notes([without_body(example["prompt"]) for example in examples])
    assert len(solved) == 164
    assert [(number, note) for number, note in enumerate(solved) if note] == []
    assert [number for number, note in enumerate(empty) if not note] == []
