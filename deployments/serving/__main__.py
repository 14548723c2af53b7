"""`python -m deployments.serving SPEC.json`: serve a model until it is stopped (SIGTERM, Ctrl-C) or replaced."""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from deployments.serving.server import run
from deployments.serving.state import ServedEngine
from nanochat_core import artifacts, paths
from nanochat_core.errors import EXIT_BAD_INPUT, NanochatError
from nanochat_core.hardware import visible_gpus
from nanochat_core.inference.requests import Request, Sampling
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec

USAGE = "usage: python -m deployments.serving SPEC.json"


def load(spec: ServeSpec) -> ServedEngine:
    """Return the engine with the spec's model: in this process, or one for each GPU in processes of their own."""
    from nanochat_core.inference.replicas import load_replicas
    from nanochat_core.inference.service import EngineOptions, load_engine

    gpus = len(visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")))
    engines = spec.engines or max(1, gpus)
    options = EngineOptions(
        precision=spec.precision,
        max_batch=spec.max_running,
        max_waiting=spec.max_waiting,
        kv_memory_gb=spec.kv_memory_gb,
        max_context=spec.max_context,
        step_tokens=spec.step_tokens,
        tool=spec.tool,
    )
    folders = Path(spec.model_folder), Path(spec.tokenizer_folder)
    if engines == 1:
        return load_engine(*folders, options=options)
    return load_replicas(*folders, options=[replace(options, gpu=number % max(1, gpus)) for number in range(engines)])


async def warm_up(engine: ServedEngine) -> None:
    """Have the engine say one token: what is set up on the first use is set up before the first client comes."""
    request = Request((engine.tokenizer.bos,), Sampling(max_new_tokens=1, ignore_eos=True))
    async for _ in engine.stream(request):
        pass


def main(arguments: list[str]) -> int:
    """Serve; returns the exit code."""
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return EXIT_BAD_INPUT
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        spec = parse_serve_spec(artifacts.read_json(Path(arguments[0])))
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    folder = paths.base_dir() / "serving"
    return run(spec, load, folder=folder, warm_up=warm_up, tell=lambda line: print(line, flush=True))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
