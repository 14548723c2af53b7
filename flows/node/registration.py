"""What the Prefect server must know of this project: work pool, deployments, the training limit, the zombie automation.

All of it may be done any number of times; deployments are written again only when the code or the server has changed.
"""

import hashlib
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows import launch, training_limit
from flows.node.addresses import Node
from flows.node.services import POOL
from nanochat_core import artifacts

ZOMBIES = "nanochat: crash runs without a heartbeat"
SILENCE = timedelta(minutes=5)  # ten heartbeats: a server that is restarted must not make live runs look dead
FINAL_STATES = ("Completed", "Failed", "Cancelled", "Crashed")


def register(node: Node) -> None:
    """Create or update everything. Raises NanochatError where the deployments cannot be registered."""
    with get_client(sync_client=True) as client:
        ensure_work_pool(client)
        training_limit.ensure(client)
        ensure_zombie_automation(client)
        known = len(client.read_deployments(limit=200))
    mark = node.folder / "registered.json"
    state = {"server": node.prefect.url, "code": code_hash(), "deployments": known}
    if not known or not mark.exists() or artifacts.read_json(mark) != state:
        launch.deploy_all(node.folder, environment=node.environment)
        with get_client(sync_client=True) as client:
            state["deployments"] = len(client.read_deployments(limit=200))
        artifacts.write_json(mark, state)


def ensure_work_pool(client: SyncPrefectClient) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def ensure_zombie_automation(client: SyncPrefectClient) -> None:
    """Have the server crash each run whose heartbeat has stopped: also those of other nodes, which ours cannot see."""
    if not client.read_automations_by_name(ZOMBIES):
        client.create_automation(zombie_automation())


def zombie_automation() -> AutomationCore:
    """Return the automation: after a heartbeat, another one or an end must come within SILENCE."""
    return AutomationCore(
        name=ZOMBIES,
        description="A flow run whose process is gone without a word. Retry it: it goes on from its last checkpoint.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in FINAL_STATES)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat for 5 minutes: its process or its machine is gone. Retry continues it.",
            )
        ],
    )


def code_hash() -> str:
    """Return a hash of all that shapes a deployment: prefect.yaml, the flows, the specs and recipes."""
    found = hashlib.sha256()
    for path in sorted(shaping_files(launch.PROJECT)):
        found.update(path.relative_to(launch.PROJECT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def shaping_files(project: Path) -> list[Path]:
    return [
        project / "prefect.yaml",
        *(project / "flows").rglob("*.py"),
        *(project / "nanochat_core").glob("*.py"),
    ]
