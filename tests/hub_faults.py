"""What goes wrong between the Hub and us: a fault is what becomes of one request.

server.fail(path, [refused(500), reset_after(10_000)])     # the next two requests of this path
server.fail(path, for_ever(refused(500)))
"""

import itertools
from collections.abc import Iterator

from tests.hub_server import Fault


def refused(status: int, *, retry_after: str | None = None) -> Fault:
    return Fault(status=status, retry_after=retry_after)


def silent() -> Fault:
    """The server accepts the connection and says nothing."""
    return Fault(after=None, ending="silence")


def dropped() -> Fault:
    """The connection is reset before any answer."""
    return Fault(after=None, ending="reset")


def cut_short(after: int) -> Fault:
    """The body ends, in order, before the length that was announced."""
    return Fault(after=after)


def admitted_short(after: int) -> Fault:
    """The body is shorter than the listing says, and so is the length that is announced."""
    return Fault(after=after, is_admitted=True)


def reset_after(after: int) -> Fault:
    """The connection is reset in the middle of the body."""
    return Fault(after=after, ending="reset")


def stalled_after(after: int) -> Fault:
    """The server falls silent in the middle of the body."""
    return Fault(after=after, ending="silence")


def changed() -> Fault:
    """Other bytes than announced, as many."""
    return Fault(is_changed=True)


def unranged() -> Fault:
    """The server knows no Range and sends the whole file again."""
    return Fault(is_unranged=True)


def moved(location: str) -> Fault:
    """The server sends the client to another address, as the Hub does to its content network."""
    return Fault(location=location)


def prose(text: str) -> Fault:
    """A page of somebody else's, with status 200: a portal to log in to, a proxy's error."""
    return Fault(prose=text)


def for_ever(fault: Fault) -> Iterator[Fault]:
    return itertools.repeat(fault)
