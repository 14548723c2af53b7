"""The listening socket: bound here, or taken from the server before."""

import socket

import psutil

from nanochat_core.errors import NanochatError

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; raises NanochatError, which says who has the port."""
    family, address = resolve(host, port)
    # Only where TCP is named does asyncio turn Nagle's algorithm off: else a token waits for the one before to arrive.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise NanochatError(
            f"Port {port} of {host} cannot be had: {error.strerror}{holder(port)}. Set another."
        ) from None
    listener.setblocking(False)
    return listener


def resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    """Return the family and the first address of a name; raises NanochatError for one that is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise NanochatError(f"{host!r} is no address of this machine: {error}.") from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def check_same_address(listener: socket.socket, host: str, port: int) -> None:
    """Raise NanochatError where a socket that was taken over listens elsewhere than it should."""
    _, wanted = resolve(host, port)
    name = listener.getsockname()
    if (name[0], name[1]) != wanted:
        raise NanochatError(
            f"The server that has port {port} listens on {name[0]}, not on {host}: stop it first, or use its address."
        )


def holder(port: int) -> str:
    """Return " (process 123, nginx, has it)", or "" where the system does not say."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" (process {connection.pid}, {psutil.Process(connection.pid).name()}, has it)"
    except (psutil.Error, OSError):
        pass
    return ""


def url_of(listener: socket.socket, root_path: str = "") -> str:
    """Return the address for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}{root_path}"
