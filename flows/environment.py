"""The environment that Prefect and MLflow start with. Prefect reads it when it is imported: prepare it first."""

import os
import sys
from pathlib import Path

from nanochat_core.paths import prefect_home

QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow knows only "true", Prefect that as well
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
# Prefect's own server takes 8 to 15 s to start on two cores, and more when they are busy; its limit is 20 s.
PATIENT = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
TERMINAL = {
    # Our own terminal shows one table and one line for an error; log.txt and the UI have the rest.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare(base: Path, *, is_terminal: bool = False) -> None:
    """Set each variable that the user has not: no telemetry, Prefect's home in the base folder, a quiet terminal."""
    defaults = QUIET | PATIENT | {"PREFECT_HOME": str(prefect_home(base)), "NANOCHAT_BASE_DIR": str(base)}
    if is_terminal and "PREFECT_LOGGING_LEVEL" not in os.environ:
        defaults |= TERMINAL
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # its server makes no parent folders, and dies


def keep_own_log(base: Path, name: str) -> None:
    """Write all that this process prints from here on to $NANOCHAT_BASE_DIR/logs/`name`.log.

    Only in a process that a Prefect worker has started: the worker may die before it.
    """
    if "PREFECT__FLOW_RUN_ID" not in os.environ:
        return
    path = base / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
