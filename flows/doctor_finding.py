"""What one check of `nanochat doctor` says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` says what to do where it is not ok. A problem stops runs, a warning may."""

    check: str
    state: State
    found: str
    remedy: str = ""


Check = Callable[[Path], Iterator[Finding]]
