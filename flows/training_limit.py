"""The concurrency limit that shows in Prefect's UI whether this node trains. It only shows: the file lock decides.

Prefect's own limits free the slot of a killed holder after minutes, and block everybody until then. So nothing here
ever waits for a slot, and whatever goes wrong costs a line in the log.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound, PrefectException

from flows.background import in_background

log = logging.getLogger("nanochat.training_limit")


def name() -> str:
    """Return the limit's name: one for each node."""
    return f"nanochat-training-{socket.gethostname()}"


def ensure(client: SyncPrefectClient) -> None:
    """Create the limit where it is missing."""
    try:
        client.read_global_concurrency_limit_by_name(name())
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name(), limit=1))


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show the slot as taken for the length of the block, whose caller holds the training lock."""
    in_background(lambda: show(1))
    try:
        yield
    finally:
        in_background(lambda: show(0))


def show(active_slots: int) -> None:
    """Set the number of taken slots. A server without the limit, or none at all, is no reason to stop."""
    try:
        with get_client(sync_client=True) as client:
            update = GlobalConcurrencyLimitUpdate(active_slots=active_slots)
            client.update_global_concurrency_limit(name(), update)
    except ObjectNotFound:
        return
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("The concurrency limit does not show this training: %s", error)
