"""The chat model's tool `python`: a program run in the sandbox, what it prints returned. Entry point `nanochat.tools`.

The program is taken as a notebook takes a cell: the value of a last expression is printed, too, so that what a model
asks the calculator it can ask this. Each call is a process of its own; nothing is kept between calls.
"""

import textwrap

from tasks_eval.sandbox.levels import require_sandbox
from tasks_eval.sandbox.process import Limits, run_at

LIMITS = Limits(cpu_seconds=5, wall_seconds=10.0)
OUTPUT_CHARACTERS = 1000  # a model reads them as tokens, out of the same context that it answers in


class PythonTool:
    """`python("print(6 * 7)")` is "42"."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits

    def prepare(self) -> None:
        """Raise NanochatError where this machine has no sandbox and nobody allowed to do without."""
        require_sandbox()

    def __call__(self, code: str) -> str | None:
        """Return what the program prints, or the last line of its error; None for an empty program.

        Raises NanochatError as `prepare` does.
        """
        source = textwrap.dedent(code).strip()
        if not source:
            return None
        outcome = run_at(require_sandbox(), source, self._limits, role="cell")
        text = outcome.output.rstrip()
        if len(text) > OUTPUT_CHARACTERS:
            text = text[:OUTPUT_CHARACTERS] + "…"
        match outcome.status:
            case "timeout":
                return f"{text}\nTimeoutError: stopped after {self._limits.wall_seconds:g} seconds".lstrip()
            case "too long to run":
                return "ValueError: the program is too long"
        if outcome.returncode is not None and outcome.returncode < 0 and not text:
            return "TimeoutError: stopped" if -outcome.returncode in (9, 24) else "SystemError: the program crashed"
        return text


python = PythonTool()
