"""A small JSON file that says how the server is, for those who have started it."""

import os
import time
from pathlib import Path
from typing import Literal

from nanochat_core import artifacts

Condition = Literal["loading", "ready", "draining", "stopped", "replaced", "failed"]


class StatusFile:
    """Written whole or not at all, at each change."""

    def __init__(self, path: str | None, model_name: str) -> None:
        self._path, self._model_name = path, model_name
        self.url: str | None = None

    def write(self, state: Condition, error: str | None = None) -> None:
        """Write the state; does nothing where nobody asked for the file."""
        if self._path is None:
            return
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        status = {
            "state": state,
            "url": self.url,
            "pid": os.getpid(),
            "model_name": self._model_name,
            "since": time.time(),
        }
        artifacts.write_json(path, status | ({"error": error} if error else {}))
