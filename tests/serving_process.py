"""A server with a fake engine in a process of its own: `python -m tests.serving_process SPEC.json`.

$FAKE_TOKENS_PER_SECOND is the pace of each answer, until the file $FAKE_HURRY_FILE appears: then there is no pace.
"""

import os
import sys
import threading
from pathlib import Path

from deployments.serving.server import run
from nanochat_core import artifacts, paths
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec
from tests.fake_engine import FakeEngine, TokenClock, wait_until


def load(spec: ServeSpec) -> FakeEngine:
    """Return the engine."""
    clock = TokenClock(float(os.environ["FAKE_TOKENS_PER_SECOND"]))
    hurry = Path(os.environ["FAKE_HURRY_FILE"])
    threading.Thread(target=lambda: (wait_until(hurry.exists, 3600), clock.run()), daemon=True).start()
    return FakeEngine(
        clock=clock, model_name=spec.model_name, max_running=spec.max_running, max_waiting=spec.max_waiting
    )


if __name__ == "__main__":
    spec = parse_serve_spec(artifacts.read_json(Path(sys.argv[1])))
    raise SystemExit(run(spec, load, folder=paths.base_dir() / "serving", tell=lambda line: print(line, flush=True)))
