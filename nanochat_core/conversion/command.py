"""How export and import run as programs: a user's mistake ends in one line."""

import sys
from collections.abc import Callable

import typer

from nanochat_core.errors import EXIT_BAD_INPUT, NanochatError


def run_as_command(function: Callable[..., None], done: str) -> None:
    """Run the function on this process's arguments. `done`: what it is called when a disk or a file spoils it."""
    try:
        typer.run(function)
    except NanochatError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        print(f"error: Nothing was {done}: {error}. Mend that and start again.", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
