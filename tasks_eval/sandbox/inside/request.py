"""What a sandboxed process is asked to do, as JSON in its stdin; and the names of the levels of isolation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

NAMESPACES, BUBBLEWRAP = "namespaces+landlock+seccomp", "bubblewrap+seccomp"
LANDLOCK, RLIMITS = "landlock+seccomp", "rlimits"


class Request(NamedTuple):
    """What a sandboxed process is to do.

    role: tests, candidate, program or cell (`start.begin`). parent: pid of who started it, 0 where that cannot be told.
    status: file descriptor on which it says that it is ready. folder: the empty folder that it starts in. file_bytes:
    of all files together. pipes: the descriptors of calls and of answers. options: what the role needs.
    """

    role: str
    level: str
    parent: int
    status: int
    folder: str
    cpu_seconds: int
    memory_bytes: int
    file_bytes: int
    pipes: Sequence[int]
    options: dict[str, Any]
