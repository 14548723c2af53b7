"""Which files a program may open, by Landlock (man 7 landlock): nothing but what is named. Needs no privilege."""

import ctypes
import os
import stat
from collections.abc import Iterable

from tasks_eval.sandbox.inside import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FIRST_ABI = (1 << 13) - 1  # all rights of Linux 5.13; what came later, by the ABI that brought it:
LATER = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # REFER, TRUNCATE, IOCTL_DEV
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | LATER[3] | LATER[5]  # the others are rights on folders
MAKE = (1 << 7) | (1 << 8)  # folders and regular files; no links, sockets, devices
REMOVE = (1 << 4) | (1 << 5)
SEES_TRUNCATING = 3  # the ABI since which opening with O_TRUNC is a right of its own
VERSION, RULE_PATH_BENEATH = 1, 1


class RulesetAttributes(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """Return the version of this kernel's Landlock; raises OSError where it has none, or it is switched off."""
    return kernel.call("landlock_create_ruleset", None, 0, VERSION)


def restrict(*, readable: Iterable[str], devices: Iterable[str], writable: Iterable[str]) -> None:
    """Let this process open only what lies in these files and folders, from now on; nothing may be executed.

    devices: files like /dev/null, which may be written, too. writable: folders in which files may be made.
    """
    version = abi()
    handled = FIRST_ABI | sum(right for since, right in LATER.items() if version >= since)
    ruleset = kernel.call("landlock_create_ruleset", RulesetAttributes(handled), ctypes.sizeof(RulesetAttributes), 0)
    for path in readable:
        _allow(ruleset, path, READ_FILE | READ_DIR)
    for path in devices:
        _allow(ruleset, path, (READ_FILE | WRITE_FILE | LATER[3]) & handled)
    for path in writable:
        _allow(ruleset, path, (READ_FILE | READ_DIR | WRITE_FILE | MAKE | REMOVE | LATER[3]) & handled)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= OF_FILES
        kernel.call("landlock_add_rule", ruleset, RULE_PATH_BENEATH, PathBeneath(access, place), 0)
    finally:
        os.close(place)
