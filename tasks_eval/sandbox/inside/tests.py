"""The trusted side of grading: the tests of a task, calling the candidate through a pipe.

The function under test is a stand-in here, bound to its name. Nothing that the candidate does to its own interpreter
reaches this one: it can answer with plain data, raise, or end.
"""

import builtins
import os
from typing import Any, NoReturn

from tasks_eval.sandbox.inside.plain_data import decode, encode
from tasks_eval.sandbox.inside.program import load, run_code

ENDED = "ended before the tests did"
MESSAGE = 300  # characters
ANSWER_BYTES = 1 << 20


class CandidateEnded(BaseException):
    """The candidate's process is gone, or answers nonsense. No `except Exception` of a test may pass over it."""


class Candidate:
    """Stands for the function under test: sends the arguments, returns or raises what comes back."""

    def __init__(self, calls: int, answers: int) -> None:
        self._calls, self._answers = os.fdopen(calls, "wb"), os.fdopen(answers, "rb")
        self.has_ended = False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Return the candidate's result; raises what it raised, TypeError for arguments that are not plain data.

        Arguments are changed in place as the candidate changed them; what lies in tuples is not.
        """
        self._send(encode([list(arguments), keywords]))
        value, changed = self.read_answer()
        match changed:
            case [[*items], {**named}] if len(items) == len(arguments) and named.keys() == keywords.keys():
                for old, new in zip((*arguments, *keywords.values()), (*items, *map(named.get, keywords)), strict=True):
                    change(old, new)
        return value

    def begin(self) -> None:
        """Have the program loaded; raises what that raises. This process is behind its walls by now."""
        self._send("")
        self.read_answer()

    def _send(self, line: str) -> None:
        try:
            self._calls.write(line.encode() + b"\n")
            self._calls.flush()
        except OSError:
            self._end(ENDED)

    def read_answer(self) -> tuple[Any, Any]:
        """Return the next answer's value and the changed arguments, or raise what it says."""
        line = self._answers.readline(ANSWER_BYTES + 1)
        if not line.endswith(b"\n"):
            self._end("the answer is too long" if line else ENDED)
        try:
            answer = decode(line)
        except (ValueError, TypeError, MemoryError):
            self._end("the answer is no plain data")
        match answer:
            case ["value", value, changed]:
                return value, changed
            case ["raised", str(name), str(message)]:
                raise self._raised(name, message)
        self._end("the answer is no plain data")

    def _raised(self, name: str, message: str) -> BaseException:
        """Return the exception of Python's own that has this name; one that ends a program counts as its end."""
        kind = getattr(builtins, name, None)
        if name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
            self._end(ENDED)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return RuntimeError(f"{name}: {message}")
        try:
            return kind(message)
        except TypeError:  # UnicodeError's children want more
            return RuntimeError(f"{name}: {message}")

    def _end(self, reason: str) -> NoReturn:
        self.has_ended = True
        raise CandidateEnded(reason)


def change(old: Any, new: Any) -> None:
    """Make one collection equal to another of its kind, in place.

    >>> a = [2, 1]
    >>> change(a, [1, 2])
    >>> a
    [1, 2]
    """
    if old == new:
        return
    match old, new:
        case (list(), list()) | (bytearray(), bytearray()):
            old[:] = new
        case (dict(), dict()) | (set(), set()):
            old.clear()
            old.update(new)


def judge(candidate: Candidate, *, helpers: str, entry_point: str, test: str) -> str:
    """Run `check(candidate)`; return nothing where it passes, else one line that says why not.

    helpers: what the task's prompt defines besides the function, which tests may use. Draws of `random` are the same
    each time.
    """
    import random
    import traceback

    random.seed(0)
    try:
        candidate.begin()
        module = load(helpers, "tests")
        module.__dict__[entry_point] = candidate
        run_code(compile(test, "tests.py", "exec"), module)
        module.__dict__["check"](candidate)
    except CandidateEnded as error:
        return str(error)
    except BaseException as error:
        return traceback.format_exception_only(error)[-1].strip()[:MESSAGE]
    return ENDED if candidate.has_ended else ""
