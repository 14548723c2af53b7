"""Grading of code by unit tests: the model's program and the tests in one sandboxed process.

The last thing the process does is to print a number drawn for this run, so a program that ends early by `sys.exit(0)`
or `os._exit(0)` has not passed. One that sets out to cheat could still find the number, or the tests, in its own file.
"""

import re
import secrets
import signal

from tasks_eval.sandbox.process import Outcome, run_program
from tasks_eval.verdict import Meta, Verdict

ADDRESS = re.compile(r"0x[0-9a-f]+")
FENCED_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def run_unit_tests(meta: Meta, text: str) -> Verdict:
    """Judge a completion by `meta`: its `prompt` (the beginning of the program), `entry_point` and `test`."""
    code = full_program(meta["prompt"], meta["entry_point"], text)
    nonce = secrets.token_hex(16)
    ending = f"\ncheck({meta['entry_point']})\nimport sys\nsys.__stdout__.write({nonce!r})\n"
    outcome = run_program(f"{code}\n{meta['test']}\n{ending}")
    has_passed = outcome.status == "exited" and outcome.returncode == 0 and outcome.output.endswith(nonce)
    return Verdict(has_passed, code, "" if has_passed else _reason(outcome))


def full_program(prompt: str, entry_point: str, text: str) -> str:
    """Return the program in a completion: its first fenced block, or all of it, after the prompt where it needs that.

    What the prompt has before the function (imports, other functions) is put in front in any case.

    >>> full_program("import math\\ndef f(x):\\n", "f", "    return x")
    'import math\\ndef f(x):\\n    return x'
    >>> full_program("import math\\ndef f(x):\\n", "f", "```python\\ndef f(x):\\n    return x\\n```")
    'import math\\ndef f(x):\\n    return x\\n'
    """
    block = FENCED_BLOCK.search(text)
    code = block.group(1) if block else text
    definition = f"def {entry_point}("
    if definition not in code:
        return prompt + code
    return prompt.partition(definition)[0] + code


def _reason(outcome: Outcome) -> str:
    """Return one line that says why a program failed; the same for each run, so without addresses of objects."""
    if outcome.status != "exited":
        return outcome.status
    if outcome.returncode == -signal.SIGXCPU:
        return "timeout"
    if outcome.returncode is not None and outcome.returncode < 0:
        return f"killed by {signal.Signals(-outcome.returncode).name}"
    lines = outcome.output.strip().splitlines()
    return ADDRESS.sub("0x…", lines[-1][:200]) if lines else "ended before the tests did"
