"""Calls of the Linux kernel that the standard library has no name for, by their numbers."""

import ctypes
import os

# Name: (number on x86_64, number on aarch64).
NUMBERS = {
    "capset": (126, 91),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "seccomp": (317, 277),
    "umount2": (166, 39),
    "unshare": (272, 97),
}
MACHINES = {"x86_64": 0, "aarch64": 1}  # the column of a machine in a table of numbers

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
CAPABILITY_VERSION_3 = 0x20080522


def column() -> int:
    """Return this machine's column in tables of call numbers; raises OSError for a machine that they lack."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(f"no table of system calls for {machine}")
    return MACHINES[machine]


def call(name: str, *arguments: "int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None") -> int:
    """Make a system call and return its result; raises OSError with the kernel's reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    converted = [
        ctypes.c_long(value)
        if isinstance(value, int)
        else ctypes.byref(value)
        if isinstance(value, ctypes.Structure)
        else value
        for value in arguments
    ]
    result = int(libc.syscall(ctypes.c_long(NUMBERS[name][column()]), *converted))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def prctl(option: int, value: int) -> None:
    """Change something of this process (man 2 prctl), on any machine; raises OSError with the kernel's reason."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")


def hide_from_own_user() -> None:
    """Let no other process of this user look into this one, nor trace it (where it is not root)."""
    prctl(PR_SET_DUMPABLE, 0)


class CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapabilitySets(ctypes.Structure):
    """The lower and the upper 32 bits of each set."""

    _fields_ = (("sets", ctypes.c_uint32 * 6),)  # effective, permitted, inheritable; twice


def keep_capabilities(mask: int = 0) -> None:
    """Give up all capabilities but those in `mask`, for good where the process also gets no new privileges."""
    sets = CapabilitySets((ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0))
    call("capset", CapabilityHeader(CAPABILITY_VERSION_3, 0), sets)
