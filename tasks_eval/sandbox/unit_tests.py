"""Grading of code by unit tests: the tests in one sandboxed process, the model's program in another.

The tests call the function through a pipe, send it plain arguments and get plain data back (`inside/plain_data.py`). So
a program that ends early has not passed, and one that sets out to cheat finds neither tests nor expected results in its
process, and cannot answer with an object that claims to equal everything.
"""

import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tasks_eval.sandbox.inside.tests import ENDED
from tasks_eval.sandbox.levels import require_sandbox
from tasks_eval.sandbox.process import DEFAULT_LIMITS, Jailed, Limits, broken_without_resources, is_too_long, supervise
from tasks_eval.verdict import Meta, Verdict

ADDRESS = re.compile(r"0x[0-9a-f]+")
FENCED_BLOCK = re.compile(
    r"(?:^[ \t]*```[ \t]*([\w+#.-]*)[^`\n]*|```(?:python|py)?[ \t]*)\n(.*?)(?:```|\Z)"
    r"|^[ \t]*~{3,}[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*~~~|\Z)",
    re.DOTALL | re.MULTILINE,
)
BYTE_ORDER_MARK = "\ufeff"
PYTHON_FENCES = ("", "py", "py3", "python", "python3")
OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGKILL)  # SIGKILL: it did not heed the signal at its CPU limit
LINGERING_SECONDS = 2.0
DROPPED_BYTES = 16 << 20  # that a program may print above what is kept: right ones print what they do
FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|[^\n(])*\n", re.MULTILINE)


def run_unit_tests(meta: Meta, text: str, *, limits: Limits = DEFAULT_LIMITS, level: str | None = None) -> Verdict:
    """Judge a completion by `meta`: its `prompt` (the beginning of the program), `entry_point` and `test`.

    level: the sandbox to use; None: what this machine grants. Raises NanochatError where it grants none.
    """
    level = level or require_sandbox()
    code = full_program(meta["prompt"], meta["entry_point"], text)
    note = "too long to run" if is_too_long(code) else _failure(meta, code, limits, level)
    return Verdict(not note, code, note)


def _failure(meta: Meta, code: str, limits: Limits, level: str) -> str:
    """Run the tests; return nothing where they pass, else one line that says why not."""
    entry_point = meta["entry_point"]
    helpers = meta["prompt"].partition(f"def {entry_point}(")[0]
    nonce = secrets.token_hex(16)
    test_options = {"helpers": helpers, "entry_point": entry_point, "test": meta["test"], "nonce": nonce}
    options = {"source": code, "entry_point": entry_point}
    with ExitStack() as stack:
        with ExitStack() as given:
            calls, answers = (given.enter_context(pipe(level)) for _ in range(2))
            tests = stack.enter_context(Jailed("tests", level, limits, test_options, (calls[1], answers[0])))
            candidate = stack.enter_context(Jailed("candidate", level, limits, options, (calls[0], answers[1])))
        status = supervise(tests, candidate, dropped_bytes=DROPPED_BYTES)
        return status if status != "exited" else _verdict_of(tests, candidate, nonce)


@contextmanager
def pipe(level: str) -> Iterator[tuple[int, int]]:
    """Yield the ends of a new pipe, which are closed afterwards; raises SandboxBroken where none is to be had."""
    with broken_without_resources(level):
        ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _verdict_of(tests: Jailed, candidate: Jailed, nonce: str) -> str:
    """Return what the tests said when they ended: nothing where they passed, else why not.

    nonce: what a verdict must hold, or it is not from the tests. Raises SandboxBroken where one of the two never began.
    """
    try:
        verdict = json.loads(tests.said())
    except (ValueError, RecursionError):
        verdict = None
    if not isinstance(verdict, dict) or verdict.get("nonce") != nonce:
        return "the tests ended without a verdict"
    note = "" if verdict["passed"] else str(verdict["note"])
    if note == ENDED:
        with suppress(subprocess.TimeoutExpired):  # it has closed its pipe, and goes on
            candidate.process.wait(LINGERING_SECONDS)
            candidate.said()
    code = candidate.returncode()
    if note == ENDED and code in OUT_OF_TIME:
        return "timeout"
    if note == ENDED and code is not None and code < 0:
        return f"killed by {name_of_signal(-code)}"
    return printable(ADDRESS.sub("0x…", note[:200]))


def name_of_signal(number: int) -> str:
    """Return a signal's name; most of the real-time ones have none.

    >>> name_of_signal(9), name_of_signal(40)
    ('SIGKILL', 'signal 40')
    """
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")


def printable(text: str) -> str:
    """Return text on one line that any terminal and file can hold: what a program said may be no text at all.

    >>> printable("é\\n\\ud800")
    'é\\\\n\\\\ud800'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def full_program(prompt: str, entry_point: str, text: str) -> str:
    """Return the program in a completion: its first block of Python or all of it, after the prompt where it needs that.

    What the prompt has before the function (imports, other functions) is put in front in any case, and before that
    what must come first (imports from __future__). Marks of a byte order are left out.

    >>> full_program("import math\\ndef f(x):\\n", "f", "    return x")
    'import math\\ndef f(x):\\n    return x'
    >>> full_program("import math\\ndef f(x):\\n", "f", "```python\\ndef f(x):\\n    return x\\n```")
    'import math\\ndef f(x):\\n    return x\\n'
    """
    text = text.replace(BYTE_ORDER_MARK, "")
    found = (block.groups(default="") for block in FENCED_BLOCK.finditer(text))
    blocks = ((language + tilde_language, code + tilde_code) for language, code, tilde_language, tilde_code in found)
    code = next((code for language, code in blocks if language.lower() in PYTHON_FENCES), text)
    definition = f"def {entry_point}("
    if definition not in code:
        return prompt + code
    return "".join(FUTURE.findall(code)) + prompt.partition(definition)[0] + FUTURE.sub("", code)
