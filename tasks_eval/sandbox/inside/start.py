"""The beginning of a sandboxed process: read what is to be done, go behind the walls, say so, begin.

`tasks_eval/sandbox/process.py` starts it. A line "ready" on the descriptor `status` says that all walls of the level
stand; without it, nothing of the program has run.
"""

import contextlib
import json
import os
import resource
import sys

from tasks_eval.sandbox.inside import candidate, kernel, landlock, limits, namespaces, program, seccomp, tests
from tasks_eval.sandbox.inside.readable import DEVICES, readable_paths
from tasks_eval.sandbox.inside.request import BUBBLEWRAP, LANDLOCK, NAMESPACES, RLIMITS, Request


def main() -> None:
    request = Request(**json.loads(sys.stdin.buffer.read()))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # here, for one that only waits ends by its program's signal
    del sys.path[0]  # ours; the standard library's stay
    if request.level == RLIMITS:
        limits.leave_root()
    if sys.platform.startswith("linux"):
        namespaces.die_with_parent()  # after the change of user, which would undo it
        if request.parent and os.getppid() != request.parent:
            return  # it has ended meanwhile
    if request.level == NAMESPACES:
        namespaces.enter(request.folder, readable_paths(), DEVICES, request.file_bytes)
        namespaces.run_in_process_namespace(lambda: begin(request))
    else:
        begin(request)


def begin(request: Request) -> None:
    """Go behind the walls that bind this process itself, then do what the request says."""
    wall_in(request)
    os.write(request.status, b"ready\n")
    match request.role:
        case "tests":
            calls, answers = request.pipes
            options = dict(request.options)
            nonce = options.pop("nonce", "")  # no other process can speak for this one
            note = tests.judge(tests.Candidate(calls, answers), **options)
            os.write(request.status, json.dumps({"passed": not note, "note": note, "nonce": nonce}).encode())
        case "candidate":
            os.close(request.status)
            calls, answers = request.pipes
            candidate.serve(request.options["source"], request.options["entry_point"], calls, answers)
        case "program" | "cell":
            os.close(request.status)
            program.run(request.options["source"], is_cell=request.role == "cell")


def wall_in(request: Request) -> None:
    """Give up rights and take on limits, as the level says; raises OSError where one of them is not to be had."""
    may_write = request.level == NAMESPACES  # to a file system of a bounded size, gone at the end
    limits.set_limits(request.cpu_seconds, request.memory_bytes, request.file_bytes if may_write else 0)
    if not sys.platform.startswith("linux"):
        return
    kernel.hide_from_own_user()
    if request.level == RLIMITS:
        with contextlib.suppress(OSError):  # an old kernel, or a machine whose calls have other numbers
            seccomp.install(may_change_files=False, refused_flags=seccomp.TO_CHANGE)
        return
    kernel.keep_capabilities()
    abi = landlock_abi()
    if request.level != BUBBLEWRAP or abi:
        folders = [request.folder if request.level == LANDLOCK else namespaces.WORK]
        readable = readable_paths() + ([] if may_write else folders)
        landlock.restrict(readable=readable, devices=DEVICES, writable=folders if may_write else [])
    sees_truncating = request.level != LANDLOCK or abi >= landlock.SEES_TRUNCATING
    seccomp.install(refused_flags=0 if sees_truncating else os.O_TRUNC)


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock, 0 for none."""
    try:
        return landlock.abi()
    except OSError:
        return 0


if __name__ == "__main__":
    main()
