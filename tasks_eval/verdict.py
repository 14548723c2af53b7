"""What a grader says of one completion."""

from dataclasses import dataclass
from typing import Any

Meta = dict[str, Any]  # what a task keeps of an example for its grader; see `Task.meta`


@dataclass(frozen=True)
class Verdict:
    """`answer` is what was read out of the completion (None: nothing to read); `note` says why it failed, if known."""

    is_correct: bool
    answer: str | None
    note: str = ""
