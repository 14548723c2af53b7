"""Looks every few seconds whether Prefect's records and the processes of this node agree (flows/node/reconcile.py)."""

import logging
import time

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from flows.node.reconcile import Reconciler
from nanochat_core import paths

PERIOD_SECONDS = 10.0
WORKER_SECONDS = 20.0  # how long a dead run is left to its worker
log = logging.getLogger("nanochat.keeper")


def main() -> None:
    """Keep the records until this process is told to stop; a server that does not answer is asked again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    reconciler = Reconciler(paths.base_dir(), patience_seconds=WORKER_SECONDS)
    while True:
        time.sleep(PERIOD_SECONDS)
        try:
            with get_client(sync_client=True) as client:
                for line in reconciler.reconcile(client):
                    log.info(line)
        except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
            log.warning("Prefect does not answer: %s", error)


if __name__ == "__main__":
    main()
