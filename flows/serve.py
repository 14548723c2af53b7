"""The serving flow: a model by its name -> a server that answers, watched until it is replaced or its run is cancelled.

    find the model -> start the server -> ask it something -> publish its address -> watch, and start again what dies

Started on a port that another run serves, the new server takes over only when it is ready, without a refused request
(the server's own work); the other run then ends. flows/serving/watch.py keeps the server alive, process.py beside it
starts and stops it, and record.py tells the rest of the project what is served. Once the server runs, neither
Prefect nor MLflow is needed.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.live_view import key
from flows.model_ref import ModelFolders, check_weights, find_model, short_name
from flows.progress import note
from flows.promotion.registry import champion_folder
from flows.run_presence import present
from flows.serving import gpu as serving_gpu
from flows.serving import page as serving_page
from flows.serving import record as serving_record
from flows.serving import tags as serving_tags
from flows.serving.client import SmokeTest, first_answer, first_key
from flows.serving.gpu import GpuUse
from flows.serving.process import End, ServerCommand, ServerProcess
from flows.serving.record import ServingRecord
from flows.serving.watch import WatchRules, keep_serving
from nanochat_core import artifacts, paths
from nanochat_core.serve_spec import ServerOptions, ServeSpec, parse_serve_spec

SUCCESSOR_SECONDS = 5.0
STATE_NAMES: dict[End, str] = {"replaced": "Replaced", "stopped": "Stopped"}


def name_run() -> str:
    parameters = flow_run.parameters
    return f"serve {short_name(parameters['model'])} on port {parameters['server'].port}"


@flow(name="serve", flow_run_name=name_run)
def serve(
    model: str | None = None,
    server: ServerOptions = ServerOptions(),  # noqa: B008 - frozen; it fills the form in the UI
    watch: WatchRules = WatchRules(),  # noqa: B008
    smoke_test: SmokeTest = SmokeTest(),  # noqa: B008
    device: Literal["cuda", "mps", "cpu"] | None = None,
    gpu: GpuUse = "shared",
) -> None:
    """Serve one model until another takes its port, or this run is cancelled.

    Args:
        model: base, mid, sft or rl of the newest run; models:/NAME@alias; a folder; empty: the champion of the chat
            models (flow promote), else the newest chat model
        server: address, limits and defaults of the server
        watch: how patient the flow is with it
        smoke_test: the first question; an error or an empty answer fails the run
        device: device to compute on; empty: the best that is there
        gpu: "shared": trainings may run on the GPUs beside it; "reserved": none starts while it serves, and it waits
            for one that runs
    """
    base = paths.base_dir()
    with present(base, f"{key(name_run())}-{time.strftime('%Y%m%d-%H%M%S')}") as run_id:
        folders = model_to_serve(model, base)
        check_weights(folders)
        spec = spec_of(folders, server)
        record = ServingRecord(
            flow_run_id=run_id,
            flow_run_name=flow_run.name or name_run(),
            process_id=os.getpid(),
            model=short_name(model or str(folders.model)),
            model_folder=folders.model,
            tokenizer_folder=folders.tokenizer,
            port=server.port,
            reserves_gpu=serving_gpu.reserves(gpu, device),
            started=time.time(),
        )
        with (
            serving_gpu.reserved(base, record) as gpu_locks,
            serving_record.recorded(base, record) as (folder, lock),
        ):
            command = ServerCommand(folder, spec, base, device, held_locks=(lock, *gpu_locks))
            end, reason = Serving(base, record, command, smoke_test).until_its_end(watch)
    return cast(None, Completed(name=STATE_NAMES[end], message=reason))  # the state is what the list of runs shows


def model_to_serve(model: str | None, base: Path) -> ModelFolders:
    """Return the folders of the model; without a name, of the champion, or of the newest chat model where none is."""
    champion = champion_folder(base) if model is None else None
    return find_model(str(champion) if champion else model, base)


def spec_of(folders: ModelFolders, server: ServerOptions) -> ServeSpec:
    """Return what the server is told. Raises SpecError with all that does not fit together."""
    where = {"model_folder": str(folders.model), "tokenizer_folder": str(folders.tokenizer)}
    return parse_serve_spec(server.model_dump() | where)


@dataclass
class Serving:
    """The server of one flow run. `url` is where it answers, once it does."""

    base: Path
    record: ServingRecord
    command: ServerCommand
    smoke_test: SmokeTest
    url: str = ""

    def until_its_end(self, rules: WatchRules) -> tuple[End, str]:
        """Keep the server alive; return how it ended, and that in one line."""
        reason = "its run was stopped."
        try:
            end = keep_serving(self.command, rules, self.is_ready)
            reason = self.reason_of(end)
            note(reason)
            return end, reason
        except Exception as error:
            reason = str(error)
            raise
        finally:
            if self.url:
                serving_page.publish_end(self.url, self.command.spec, reason)
                serving_tags.untag_served(self.base, self.record.model_folder, self.record.port, self.tag)

    def is_ready(self, process: ServerProcess, url: str) -> None:
        """Ask a new server something, and publish where it is; one that was started again is only told of."""
        if self.url:
            return note(f"{self.record.model} is served again on {url}.")
        spec = self.command.spec
        api_key = first_key(spec.api_keys_file)
        manifest = artifacts.read_manifest(self.record.model_folder)
        answer = first_answer(
            url,
            spec.model_name,
            self.smoke_test,
            is_chat=manifest is None or manifest.stage != "pretrain",
            key=api_key,
            is_running=lambda: process.guard.poll() is None,
        )
        self.url = url
        note(f"{self.record.model} is served on {url}; its log: {process.log}")
        serving_page.publish(url, spec, reference=self.record.model, answer=answer, has_keys=api_key is not None)
        serving_tags.tag_served(self.base, self.record.model_folder, self.record.port, self.tag)

    @property
    def tag(self) -> str:
        return f"{self.url} (flow run {self.record.flow_run_name}, {self.record.flow_run_id})"

    def reason_of(self, end: End) -> str:
        """Return in one line why a server has ended in order."""
        other = serving_record.successor(
            self.base, self.record, seconds=SUCCESSOR_SECONDS if end == "replaced" else 0.0
        )
        if end == "replaced":
            whose = f"the flow run {other.flow_run_name!r} ({other.flow_run_id})" if other else "a newer server"
            return f"Port {self.record.port} was taken over by {whose}."
        return f"The server on port {self.record.port} was stopped from outside."
