"""The worker of a node: waits for Prefect's server, then becomes `prefect worker start`."""

from flows import launch, prefect_server
from flows.node import addresses
from flows.node.services import POOL
from nanochat_core import paths
from nanochat_core.errors import NanochatError


def main() -> None:
    """Become Prefect's worker. Raises SystemExit, for supervisord to try again, where the server does not answer."""
    node = addresses.running(paths.base_dir())
    if node is None:
        raise SystemExit("There is no node for this base folder: `nanochat up` starts one, with its worker.")
    try:
        prefect_server.wait_for(f"{node.prefect.url}/api", lambda: True, node.folder / "prefect.log")
    except NanochatError as error:
        raise SystemExit(str(error)) from None
    launch.become("prefect", ["worker", "start", "--pool", POOL, "--type", "process", "--name", "nanochat"])


if __name__ == "__main__":
    main()
