"""A server with a fake engine in a process of its own: `python -m tests.serving_process SPEC.json`.

$FAKE_TOKENS_PER_SECOND is the pace of each answer; $FAKE_LOAD_SECONDS how long the model takes to load.
"""

import os
import sys
import time
from pathlib import Path

from deployments.serving.server import run
from nanochat_core import artifacts, paths
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec
from tests.fake_engine import FakeEngine, TokenClock


def load(spec: ServeSpec) -> FakeEngine:
    """Return the engine, after a while."""
    time.sleep(float(os.environ.get("FAKE_LOAD_SECONDS", "0")))
    pace = os.environ.get("FAKE_TOKENS_PER_SECOND")
    clock = TokenClock(float(pace) if pace else None)
    return FakeEngine(
        clock=clock, model_name=spec.model_name, max_running=spec.max_running, max_waiting=spec.max_waiting
    )


if __name__ == "__main__":
    spec = parse_serve_spec(artifacts.read_json(Path(sys.argv[1])))
    raise SystemExit(run(spec, load, folder=paths.base_dir() / "serving", tell=lambda line: print(line, flush=True)))
