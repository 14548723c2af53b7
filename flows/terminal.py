"""What every command of `nanochat` shares: one console, and one line for what a user can fix."""

import functools
from collections.abc import Callable
from itertools import groupby
from typing import NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from nanochat_core.errors import NanochatError

P = ParamSpec("P")
R = TypeVar("R")
EXIT_INTERRUPTED = 130
console = Console(highlight=False)


def in_one_line(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can fix into one line and an exit code, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except NanochatError as error:
            end(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            end("Stopped. The same command continues where this one was.", EXIT_INTERRUPTED)

    return wrapper


def append_visible(text: Text, string: str, style: str = "") -> None:
    """Append a string, with what would steer the terminal spelled out and marked."""
    for is_visible, run in groupby(string, key=lambda character: character in "\n\t" or character.isprintable()):
        if is_visible:
            text.append("".join(run), style=style)
        else:
            text.append("".join(run).encode("unicode_escape").decode(), style="reverse red")


def tell(line: str) -> None:
    """Print one line as it is."""
    console.print(line, markup=False, soft_wrap=True)


def end(message: str, code: int) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)
    raise typer.Exit(code)
