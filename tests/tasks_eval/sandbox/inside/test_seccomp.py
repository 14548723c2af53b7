"""The filter's numbers are the kernel's, and it decides as its description says."""

import errno
import os
import re
import struct
from pathlib import Path

import pytest

from tasks_eval.sandbox.inside import kernel, seccomp

HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
DEFINITION = re.compile(r"#define __NR(3264)?_(\w+)\s+(?:(\d+)|__NR3264_(\w+))$", re.MULTILINE)
PID = 4242


def numbers_in(header: Path) -> dict[str, int]:
    found = DEFINITION.findall(header.read_text())
    numbers = {name: int(number) for _, name, number, _ in found if number}
    return numbers | {name: numbers[other] for _, name, _, other in found if other in numbers}


@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_the_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip(f"no {HEADERS[column]}")
    theirs = numbers_in(HEADERS[column])
    others = {"prlimit64": seccomp.PRLIMIT, "fcntl": seccomp.FCNTL, "ioctl": seccomp.IOCTL}
    opening = {name: numbers for name, (numbers, _) in seccomp.OPEN.items()}
    ours = seccomp.ALLOWED | seccomp.CHANGES | seccomp.SIGNALLING | kernel.NUMBERS | others | opening
    there = {name: row[column] for name, row in ours.items() if row[column] is not None}
    assert there == {name: theirs[name] for name in there}


def decision(number: int, *arguments: int, arch: int = seccomp.AUDIT_ARCH[0], refused_flags: int = 0) -> int:
    """Return what the filter for x86_64 says of a call, by running it as the kernel does."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    program = list(seccomp.instructions(0, PID, seccomp.ALLOWED, refused_flags))
    place = word = 0
    while True:
        code, when_true, when_false, operand = program[place]
        place += 1
        if code == seccomp.RETURN:
            return operand
        if code == seccomp.LOAD:
            (word,) = struct.unpack_from("=I", data, operand)
            continue
        is_true = {
            seccomp.EQUAL: word == operand,
            seccomp.AT_LEAST: word >= operand,
            seccomp.ANY_BIT: bool(word & operand),
        }[code]
        place += when_true if is_true else when_false


def test_what_a_computing_program_needs_is_allowed() -> None:
    assert {decision(numbers[0]) for numbers in seccomp.ALLOWED.values() if numbers[0] is not None} == {seccomp.ALLOW}


@pytest.mark.parametrize(
    "name", [*kernel.NUMBERS, "socket", "clone", "fork", "execve", "ptrace", "bpf", "chmod", "prctl"]
)
def test_everything_else_is_refused(name: str) -> None:
    more = {"socket": 41, "clone": 56, "fork": 57, "execve": 59, "ptrace": 101, "bpf": 321, "chmod": 90, "prctl": 157}
    number = more.get(name) or kernel.NUMBERS[name][0]
    assert decision(number) in (seccomp.DENY, seccomp.UNKNOWN)


def test_new_calls_are_unknown_rather_than_forbidden_so_that_libraries_fall_back() -> None:
    assert decision(435) == seccomp.ERRNO | errno.ENOSYS  # clone3


def test_another_architecture_ends_the_process_and_x32_is_refused() -> None:
    assert decision(0, arch=0x40000003) == seccomp.KILL
    assert decision(0x40000000) == seccomp.UNKNOWN


def test_a_process_may_signal_itself_only() -> None:
    for number in (row[0] for row in seccomp.SIGNALLING.values()):
        assert decision(number, PID) == seccomp.ALLOW
        assert {decision(number, pid) for pid in (0, 1, PID + 1, 2**64 - 1, 2**64 - PID)} == {seccomp.DENY}


def test_arguments_decide_where_they_must() -> None:
    assert decision(seccomp.FCNTL[0], 3, 4) == seccomp.ALLOW
    assert decision(seccomp.FCNTL[0], 3, 8) == seccomp.DENY  # F_SETOWN
    assert decision(seccomp.IOCTL[0], 0, 0x5412) == seccomp.DENY  # TIOCSTI
    assert decision(seccomp.PRLIMIT[0], 0) == seccomp.ALLOW
    assert decision(seccomp.PRLIMIT[0], 1) == seccomp.DENY
    for number, place in ((2, 1), (257, 2)):
        flags = [0] * place + [os.O_RDONLY | os.O_TRUNC]
        assert decision(number, *flags) == seccomp.ALLOW
        assert decision(number, *flags, refused_flags=os.O_TRUNC) == seccomp.DENY
        for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE):
            assert decision(number, *flags[:-1], flag, refused_flags=seccomp.TO_CHANGE) == seccomp.DENY
        assert decision(number, *flags[:-1], os.O_CLOEXEC, refused_flags=seccomp.TO_CHANGE) == seccomp.ALLOW
