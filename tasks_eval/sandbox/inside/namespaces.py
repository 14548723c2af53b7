"""A world of its own for a process: no network, no other process, no files but a few to read (man 7 namespaces).

Needs no privilege where the kernel grants user namespaces to everybody.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence

from tasks_eval.sandbox.inside import kernel

# linux/sched.h: mounts, host name, SysV memory, users, processes, network.
NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH, AT_RECURSIVE = 2, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
WORK = "/nanochat-sandbox"
INSIDE_ID = 1000  # who the process is in its own eyes
FILES = 64  # that may be made in it


class MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def enter(root: str, paths: Sequence[str], devices: Sequence[str], work_bytes: int) -> None:
    """Move this process into new namespaces whose only files are `paths`, read-only, and an empty one to write in.

    Children of this process, and not it, are in the new process namespace. root: an empty folder to build in. Raises
    OSError where the kernel refuses.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.call("unshare", NEW_NAMESPACES)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_ID} {user} 1"),
        ("gid_map", f"{INSIDE_ID} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    kernel.call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _mount_tmpfs(root, 1 << 20, 4096)
    for path in paths:
        _bind(path, root + path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
    for path in devices:
        _bind(path, root + path, ATTR_NOSUID)
    os.mkdir(root + WORK)
    _mount_tmpfs(root + WORK, work_bytes, FILES)
    _set_attributes(root, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0)
    os.chdir(root)
    kernel.call("pivot_root", b".", b".")  # the old root is stacked on the new one
    kernel.call("umount2", b".", MNT_DETACH)
    os.chdir(WORK)


def _mount_tmpfs(path: str, size: int, inodes: int) -> None:
    options = f"size={max(size, 4096)},nr_inodes={inodes},mode=0755".encode()
    kernel.call("mount", b"tmpfs", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options)


def _bind(source: str, target: str, attributes: int) -> None:
    """Show a file or folder, with what is mounted in it, at another place."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "x"):
            pass
    kernel.call("mount", os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC, None)
    _set_attributes(target, attributes, AT_RECURSIVE)


def _set_attributes(path: str, attributes: int, flags: int) -> None:
    change = MountAttributes(attributes, 0, 0, 0)
    kernel.call("mount_setattr", -100, os.fsencode(path), flags, change, ctypes.sizeof(change))


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def run_in_process_namespace(program: Callable[[], None]) -> None:
    """Run `program` in a child that sees no other process, and end as it ends, with the same signal or code.

    The namespace's first process only waits, so that signals work for the program as they do everywhere; when it ends,
    the kernel kills all that are left.
    """
    first = os.fork()
    if first == 0:
        _wait_for_ever()
    child = os.fork()
    if child == 0:
        die_with_parent()
        program()
        return
    os.closerange(0, 256)  # the program's pipes close when the program closes them
    _, status = os.waitpid(child, 0)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):  # SIGKILL's handler cannot be set, and need not be
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def _wait_for_ever() -> None:
    die_with_parent()
    os.closerange(0, 256)
    while True:
        signal.pause()
