"""How much a process may use, by rlimits (man 2 setrlimit); and who it is, where it was started by root."""

import os
import resource
import sys

from tasks_eval.sandbox.inside import kernel

FIRST_UID = 1_879_048_192  # far above every user of a machine; one a process, so that none can signal another
NOBODY = 65534
DAC_READ_SEARCH = 1 << 2


def set_limits(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Bound CPU time, address space, each written file and open files; no further processes or threads.

    A process that ignores the signal at its CPU limit is killed a second later. What a system lacks is left out.
    """
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        highest = resource.getrlimit(kind)[1]
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):
            if sys.platform.startswith("linux"):
                raise


def leave_root() -> None:
    """Become a user that owns nothing, where this process is root: limits on processes bind, and files are safe.

    Reading stays possible where this Python lies in a folder that only root can enter.
    """
    if os.geteuid() != 0:
        return
    is_linux = sys.platform.startswith("linux")
    is_private = is_linux and not _is_open_to_all(os.path.dirname(os.__file__))
    if is_private:
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    for uid in (FIRST_UID + os.getpid(), NOBODY):
        try:
            os.setgid(uid)
            os.setuid(uid)
            break
        except OSError:  # a container that knows fewer users
            if uid == NOBODY:
                raise
    if is_linux:
        kernel.keep_capabilities(DAC_READ_SEARCH if is_private else 0)


def _is_open_to_all(folder: str) -> bool:
    """Tell whether everybody can enter a folder, and those above it."""
    while os.stat(folder).st_mode & 0o001:
        if folder == os.path.dirname(folder):
            return True
        folder = os.path.dirname(folder)
    return False
