"""Errors that a user can act on. Each message says what happened, what was expected and what to do."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Self

EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75


class NanochatError(Exception):
    """Something the user can fix; shown as one line, without a traceback. `exit_code` is the process's exit status."""

    exit_code = EXIT_BAD_INPUT


class SpecError(NanochatError):
    """A recipe, field or value that does not exist or does not fit the others."""

    @classmethod
    def listing(cls, problems: Sequence[str]) -> Self:
        """Return the error that lists all problems: one as it is, several a line each.

        >>> print(SpecError.listing(["sft.steps: 0", "unknown field x"]))
        2 problems:
        - sft.steps: 0
        - unknown field x
        """
        if len(problems) == 1:
            return cls(problems[0])
        return cls("\n- ".join([f"{len(problems)} problems:", *problems]))


class DataError(NanochatError):
    """Input data that is missing, empty, corrupt or not what it claims to be."""


class NonFiniteLoss(DataError):
    """A loss or gradient that is no number. `batch` is the batch that it came from, the run's first being 1."""

    def __init__(self, message: str, batch: int) -> None:
        super().__init__(message)
        self.batch = batch


class Unreachable(DataError):
    """A server that does not answer, not now or not in time: waiting may help, changing anything does not."""


class ArtifactError(NanochatError):
    """A file of a finished stage that is missing, damaged or belongs to something else."""


class CheckpointError(NanochatError):
    """A checkpoint that cannot be written, or must not be loaded."""


class StageFailed(NanochatError):
    """A stage's process ended without a result. `exit_code` is what its guard reported.

    `is_transient`: nothing is wrong with the stage itself (pre-empted, stalled, killed from outside, a lost node), so
    that another try makes sense without anybody changing anything.
    """

    def __init__(self, message: str, exit_code: int = 1, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.is_transient = is_transient


class Preempted(NanochatError):
    """The stage was asked to stop and has saved its state; running it again continues it."""

    exit_code = EXIT_PREEMPTED


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest known name, or the list of known names when none is close.

    >>> did_you_mean("dem", ["demo", "speedrun"])
    " (did you mean 'demo'?)"
    >>> did_you_mean("core", ["CORE", "copa"])
    " (did you mean 'CORE'?)"
    >>> did_you_mean("zzz", ["demo", "speedrun"])
    ' (known: demo, speedrun)'
    >>> did_you_mean("demo", [])
    ' (there is none yet)'
    """
    known = sorted(known)
    if not known:
        return " (there is none yet)"
    alike = [other for other in known if other.lower() == name.lower()]
    close = alike or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
