"""Which system calls a program may make: those that a computing Python needs. No processes, threads or sockets.

A filter in the kernel's classic BPF (man 2 seccomp): the call's number is compared with each allowed one in turn; of a
few calls an argument is compared, too. A call that is not on the list fails with EPERM, so that Python raises
PermissionError and the program may go on; one through another architecture's door ends the process.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping

from tasks_eval.sandbox.inside import kernel

# Name: (number on x86_64, number on aarch64); None: the machine lacks it.
MEMORY = {
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "brk": (12, 214),
    "madvise": (28, 233),
}  # fmt: skip
FILES = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "sendfile": (40, 71),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "fstat": (5, 80),
    "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43),
    "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "getdents": (78, None), "getdents64": (217, 61), "readlink": (89, None), "readlinkat": (267, 78),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "fsync": (74, 82), "fdatasync": (75, 83),
    "umask": (95, 166),
}  # fmt: skip
CHANGES = {
    "mkdir": (83, None), "mkdirat": (258, 34), "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "ftruncate": (77, 46),
}  # fmt: skip
TIME = {
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
}  # fmt: skip
SIGNALS = {
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "setitimer": (38, 103),
    "getitimer": (36, 102), "alarm": (37, None), "pause": (34, None), "restart_syscall": (219, 128),
}  # fmt: skip
PROCESS = {
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "getpriority": (140, 141), "getrusage": (98, 165), "getrlimit": (97, 163), "uname": (63, 160),
    "sysinfo": (99, 179), "getcpu": (309, 168), "getrandom": (318, 278), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "wait4": (61, 260), "waitid": (247, 95), "futex": (202, 98),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "set_tid_address": (218, 96), "rseq": (334, 293),
    "arch_prctl": (158, None), "membarrier": (324, 283), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
ALLOWED = MEMORY | FILES | TIME | SIGNALS | PROCESS

OPEN = {"open": ((2, None), 1), "openat": ((257, 56), 2)}  # with the place of their flags among the arguments
UNNAMED_FILE = 0o20000000  # of O_TMPFILE, whose other bit says that it is a folder's
TO_CHANGE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | UNNAMED_FILE  # flags of opening
SIGNALLING = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131)}
PRLIMIT, FCNTL, IOCTL = (302, 261), (72, 25), (16, 29)
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # duplicate, flags, duplicate with close-on-exec; never F_SETOWN, which signals
IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, bytes waiting, flags

AUDIT_ARCH = (0xC000003E, 0xC00000B7)
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # places in struct seccomp_data
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
DENY, UNKNOWN = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
FIRST_WITH_FALLBACK = 424  # calls newer than this are tried, and replaced by older ones where the kernel lacks them
SECCOMP_SET_MODE_FILTER = 1

Instruction = tuple[int, int, int, int]
Calls = Mapping[str, tuple[int | None, int | None]]


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(*, may_change_files: bool = True, refused_flags: int = 0) -> None:
    """Filter this process's calls from now on. Its pid must be final; raises OSError where the kernel cannot.

    may_change_files: by other calls than those that open them. refused_flags: with which no file may be opened.
    """
    column = kernel.column()
    allowed = ALLOWED | CHANGES if may_change_files else ALLOWED
    program = list(instructions(column, os.getpid(), allowed, refused_flags))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.call("seccomp", SECCOMP_SET_MODE_FILTER, 0, Program(len(program), code))


def instructions(column: int, pid: int, allowed: Calls, refused_flags: int) -> Iterator[Instruction]:
    """Yield the filter for a machine's column of the tables."""
    yield (LOAD, 0, 0, ARCH)
    yield (EQUAL, 1, 0, AUDIT_ARCH[column])
    yield (RETURN, 0, 0, KILL)
    yield (LOAD, 0, 0, NUMBER)
    for numbers in allowed.values():
        if (number := numbers[column]) is not None:
            yield from ((EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW))
    for numbers in SIGNALLING.values():
        yield from when_argument(numbers[column], 0, (pid,))
    yield from when_argument(PRLIMIT[column], 0, (0, pid))
    yield from when_argument(FCNTL[column], 1, FCNTL_COMMANDS)
    yield from when_argument(IOCTL[column], 1, IOCTL_COMMANDS)
    for numbers, place in OPEN.values():
        yield from unless_bit(numbers[column], place, refused_flags)
    yield from ((AT_LEAST, 0, 1, FIRST_WITH_FALLBACK), (RETURN, 0, 0, UNKNOWN), (RETURN, 0, 0, DENY))


def when_argument(number: int, place: int, values: Iterable[int]) -> list[Instruction]:
    """Return what allows a call where the lower 32 bits of an argument (all that the kernel reads) are in `values`."""
    compared = [step for value in values for step in ((EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]
    body = [(LOAD, 0, 0, ARGUMENTS + 8 * place), *compared, (RETURN, 0, 0, DENY)]
    return [(EQUAL, 0, len(body), number), *body]


def unless_bit(number: int | None, place: int, bits: int) -> list[Instruction]:
    """Return what allows a call where none of `bits` is set in an argument."""
    if number is None:
        return []
    load = (LOAD, 0, 0, ARGUMENTS + 8 * place)
    return [(EQUAL, 0, 4, number), load, (ANY_BIT, 0, 1, bits), (RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)]
