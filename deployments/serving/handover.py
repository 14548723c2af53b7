"""One server takes the port over from another, and no client notices.

The listening socket itself goes from process to process (SCM_RIGHTS, over a unix socket that only its owner may open):
while both hold it, whoever is free takes the next connection, and the kernel's queue is the same. The order is

    new: loads its model             old: answers
    new: "socket" ->                 old: sends its listening socket, answers on
    new: accepts connections         old: accepts connections
    new: "drain" ->                  old: accepts no more, finishes what it has, ends

so that at each moment somebody accepts, and a new server that dies on the way has changed nothing.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanochat_core.errors import NanochatError

SECONDS = 10.0  # for an answer over the control socket
LOCK_SECONDS = 60.0  # for another server that starts on the same port
MAX_PATH = 100  # bytes of a unix socket's path; the kernel takes 108, macOS 104
LINE = 4096


@dataclass(frozen=True)
class ControlPaths:
    """Where the control socket of a port lies, and the lock for whoever wants to take the port."""

    folder: Path
    port: int

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.port}.sock"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.port}.lock"


@contextmanager
def taking(paths: ControlPaths) -> Iterator[None]:
    """Hold the right to take the port for the length of the block; raises NanochatError where another has it."""
    paths.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(paths.lock, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise NanochatError(
            f"Another server has been starting on port {paths.port} for a minute: wait for it."
        ) from None


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a name of the path that is short enough for a unix socket."""
    if len(os.fsencode(path)) <= MAX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        if not Path(f"/proc/self/fd/{folder}").exists():
            raise NanochatError(f"{path} is too long a path for a socket: set a shorter NANOCHAT_BASE_DIR.")
        yield short
    finally:
        os.close(folder)


class OldServer:
    """The server that has the port, seen from the one that wants it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def find(cls, paths: ControlPaths) -> "OldServer | None":
        """Return the server behind the control socket, or None where nobody listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(SECONDS)
        try:
            with short_path(paths.socket) as path:
                connection.connect(path)
        except OSError:
            connection.close()
            return None
        return cls(connection)

    def take_socket(self) -> socket.socket:
        """Return the listening socket, which both servers hold from now on. Raises NanochatError."""
        try:
            self._connection.sendall(b"socket\n")
            answer, descriptors, _, _ = socket.recv_fds(self._connection, LINE, 1)
        except OSError as error:
            raise NanochatError(f"The server that has the port does not answer ({error}): stop it.") from None
        if not descriptors:
            raise NanochatError(f"The server that has the port keeps it: {answer.decode(errors='replace')!r}.")
        listener = socket.socket(fileno=descriptors[0])
        listener.setblocking(False)
        return listener

    def drain(self) -> int:
        """Tell it to accept no more and end; returns its process id once it accepts no more. Raises NanochatError."""
        try:
            self._connection.sendall(b"drain\n")
            return int(json.loads(self._connection.recv(LINE))["pid"])
        except (OSError, ValueError, KeyError) as error:
            raise NanochatError(f"The server before this one does not end ({error}): stop it.") from None

    def close(self) -> None:
        self._connection.close()


class ControlSocket:
    """Where a running server is asked for its port."""

    def __init__(self, paths: ControlPaths, listener: socket.socket, on_drain: Callable[[], None]) -> None:
        self._paths, self._listener, self._on_drain = paths, listener, on_drain
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen; an older server's socket of that name goes out of sight."""
        self._paths.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._paths.socket.with_name(f".{self._paths.port}.{os.getpid()}.sock")
        temporary.unlink(missing_ok=True)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        control.setblocking(False)
        with short_path(temporary) as path:
            control.bind(path)
        os.chmod(temporary, 0o600)
        control.listen(8)
        os.replace(temporary, self._paths.socket)
        status = self._paths.socket.stat()
        self._socket, self._identity = control, (status.st_dev, status.st_ino)
        self._spawn(self._accept(control))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(control)
            if is_ours(connection):
                self._spawn(self._serve(connection))
            else:
                connection.close()

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError, TimeoutError):
            while line := (await asyncio.wait_for(loop.sock_recv(connection, LINE), SECONDS)).strip():
                if line == b"socket":
                    socket.send_fds(connection, [json.dumps({"pid": os.getpid()}).encode()], [self._listener.fileno()])
                elif line == b"drain":
                    self._on_drain()
                    await loop.sock_sendall(connection, json.dumps({"pid": os.getpid()}).encode())
                else:
                    return

    def close(self) -> None:
        """Listen no more; the file goes only where it is still ours."""
        for task in list(self._tasks):
            task.cancel()
        if self._socket is None:
            return
        self._socket.close()
        with contextlib.suppress(OSError):
            status = self._paths.socket.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._paths.socket.unlink()


def is_ours(connection: socket.socket) -> bool:
    """Tell whether the other end runs under our user; where the system does not say, the file's mode has decided."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return user in (os.geteuid(), 0)
