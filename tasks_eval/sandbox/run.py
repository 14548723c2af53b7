"""Run a Python program in the sandbox that this machine grants."""

from tasks_eval.sandbox.levels import require_sandbox
from tasks_eval.sandbox.process import DEFAULT_LIMITS, Limits, Outcome, run_at


def run_program(program: str, limits: Limits = DEFAULT_LIMITS) -> Outcome:
    """Run `program` and return how it ended. Never raises for what the program does.

    Raises NanochatError where this machine has no sandbox and nobody allowed to do without.
    """
    return run_at(require_sandbox(), program, limits)
