"""The tool `python`: a program's printed output, or the last line of its error."""

import pytest

from nanochat_core.inference.tool_use import load_tool
from tasks_eval.sandbox.process import Limits
from tasks_eval.sandbox.python_tool import OUTPUT_CHARACTERS, PythonTool, python


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("print('hello')", "hello"),
        ("12*7", "84"),
        (' "p,e,a,r".count("e")', "1"),
        ("total = 0\nfor n in range(4):\n    total += n\nprint(total)\ntotal + 1", "6\n7"),
        ("  x = 1\n  x + 1", "2"),
        ("\tx = 1\n\tx + 1", "2"),
        ("'a\tb'", r"'a\tb'"),
        ("x = 1", ""),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise SystemExit('bye')", "bye"),
        ("print(1)\n1/0", "1\nZeroDivisionError: division by zero"),
        ("x +", 'File "program.py", line 1\n    x +\n       ^\nSyntaxError: invalid syntax'),
        ("", None),
        (" \n", None),
        ("#" * (2 << 20), "ValueError: the program is too long"),
    ],
)
def test_what_a_program_prints_is_the_answer(code: str, output: str | None) -> None:
    assert python(code) == output


def test_a_program_without_end_is_stopped() -> None:
    tool = PythonTool(Limits(cpu_seconds=1, wall_seconds=0.7))
    assert tool("print(1, flush=True)\nimport time\ntime.sleep(60)") == "1\nTimeoutError: stopped after 0.7 seconds"


def test_a_long_output_is_cut() -> None:
    output = python("print('x' * 9999)")
    assert output == "x" * OUTPUT_CHARACTERS + "…"


def test_the_tool_is_found_by_its_name() -> None:
    assert load_tool("python")("print(6 * 7)") == "42"
