"""Looks every few seconds whether Prefect's records and the processes of this node agree (flows/node/reconcile.py)."""

import logging
import time

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from flows.node.reconcile import reconcile
from nanochat_core import paths

PERIOD_SECONDS = 10.0
log = logging.getLogger("nanochat.keeper")


def main() -> None:
    """Keep the records until this process is told to stop; a server that does not answer is asked again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    base = paths.base_dir()
    while True:
        time.sleep(PERIOD_SECONDS)
        try:
            with get_client(sync_client=True) as client:
                for line in reconcile(client, base):
                    log.info(line)
        except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
            log.warning("Prefect does not answer: %s", error)


if __name__ == "__main__":
    main()
