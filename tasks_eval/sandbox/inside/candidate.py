"""The untrusted side of grading: a function that a model wrote, called through a pipe.

A first line says that the tests' process stands behind its walls: no program runs before, for one that did could read
there what is expected. Each further line is [arguments, keyword arguments]; each that leaves is ["value", result] or
["raised", type, message]. The tests are in another process, and only arguments ever come here.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from tasks_eval.sandbox.inside.plain_data import decode, encode
from tasks_eval.sandbox.inside.program import load

MESSAGE = 200  # characters


def serve(source: str, entry_point: str, calls: int, answers: int) -> None:
    """Load the program, then answer calls of its function until there are none. calls, answers: file descriptors."""
    with os.fdopen(calls, "rb") as asked, os.fdopen(answers, "wb") as told:

        def tell(make: Callable[[], Any]) -> None:
            told.write(outcome_of(make).encode() + b"\n")
            told.flush()

        if not asked.readline():
            return
        functions: list[Callable[..., Any]] = []
        tell(lambda: functions.append(getattr(load(source, "solution"), entry_point)))
        for line in asked:
            arguments, keywords = decode(line)
            tell(partial(functions[0], *arguments, **keywords))


def outcome_of(make: Callable[[], Any]) -> str:
    """Return a call's outcome as one line, whatever it is."""
    try:
        return encode(["value", make()])
    except BaseException as error:
        try:
            message = str(error)[:MESSAGE]
        except Exception:  # of the model's making, too
            message = ""
        return encode(["raised", type(error).__name__, message])
