"""The untrusted side of grading: a function that a model wrote, called through a pipe.

A first line says that the tests' process stands behind its walls: no program runs before, for one that did could read
there what is expected. Each further line is [arguments, keyword arguments]; each that leaves is ["value", result,
null], with [arguments, keyword arguments] in place of null where the function changed them, or ["raised", type,
message]. The tests are in another process, and only arguments ever come here.
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

        def tell(make: Callable[[], tuple[Any, Any]]) -> None:
            told.write(outcome_of(make).encode() + b"\n")
            told.flush()

        if not asked.readline():
            return
        functions: list[Callable[..., Any]] = []

        def begin() -> tuple[None, None]:
            functions.append(getattr(load(source, "solution"), entry_point))
            return None, None

        tell(begin)
        for line in asked:
            tell(partial(call, functions[0], line))


def call(function: Callable[..., Any], line: bytes) -> tuple[Any, Any]:
    """Return the result for a line's arguments, and what has become of these: None where they are as they were."""
    arguments, keywords = decode(line)
    before = state_of([arguments, keywords])
    result = function(*arguments, **keywords)
    return result, None if state_of([arguments, keywords]) == before else [arguments, keywords]


def state_of(value: Any) -> str | None:
    """Return what tells whether plain data has changed, None for what cannot be told: quicker than a second copy."""
    try:
        return repr(value)
    except Exception:
        return None


def outcome_of(make: Callable[[], tuple[Any, Any]]) -> str:
    """Return a call's outcome as one line, whatever it is."""
    try:
        return encode(["value", *make()])
    except BaseException as error:
        try:
            message = str(error)[:MESSAGE]
        except Exception:  # of the model's making, too
            message = ""
        return encode(["raised", type(error).__name__, message])
