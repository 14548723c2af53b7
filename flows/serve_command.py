"""`nanochat serve`: an OpenAI-compatible server of one model, with the chat page, in this terminal."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import launch
from flows.field_changes import nested, parse_changes
from flows.terminal import in_one_line
from nanochat_core import artifacts, paths
from nanochat_core.hardware import usable_cores
from nanochat_core.model_chain import made_by
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec

MODULE = "deployments.serving"
MODEL_HELP = "base, mid, sft, rl, a stage of finetune, models:/NAME@alias, or a folder; default: the newest chat model"


@in_one_line
def serve(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on; default: this machine only")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="port; default: 8000; 0: any free one")] = None,
    name: Annotated[
        str | None, typer.Option(help="name by which clients ask for the model; default: its stage")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16, int8 or int4")] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="file with API keys, one a line; default: those in $NANOCHAT_API_KEYS, if any")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="any other field, for example limits.messages=100; repeatable")
    ] = None,
) -> None:
    """Serve a model by OpenAI's API, with a chat page. A server that has the port already is replaced without a gap."""
    from flows.model_ref import check_weights, find_model  # imports Prefect

    base = paths.base_dir()
    folders = find_model(model, base)
    check_weights(folders)
    given = {"host": host, "port": port, "precision": precision, "model_name": name}
    if api_keys_file is not None:
        given["api_keys_file"] = os.path.abspath(os.path.expanduser(api_keys_file))
    path = write_spec(base, serve_spec(folders, given, changes or []))
    threads = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
    environment = launch.process_environment(
        base, threads=threads, device=os.environ.get("NANOCHAT_DEVICE"), answers=True
    )
    launch.become(MODULE, [str(path)], environment)


def serve_spec(folders: "ModelFolders", given: dict[str, Any], changes: list[str]) -> ServeSpec:
    """Return what the server is told: options that were given before `--set` before defaults. Raises SpecError."""
    where = {"model_folder": str(folders.model), "tokenizer_folder": str(folders.tokenizer)}
    options = {field: value for field, value in given.items() if value is not None}
    return parse_serve_spec({"model_name": model_name(folders)} | nested(parse_changes(changes)) | options | where)


def model_name(folders: "ModelFolders") -> str:
    """Return the name by which clients ask for a model where the user says none: base, mid, sft, rl or its folder's."""
    manifest = artifacts.read_manifest(folders.model)
    made = made_by(manifest.stage) if manifest else None
    return made.name if made else folders.model.name


def write_spec(base: Path, spec: ServeSpec) -> Path:
    """Write the spec where the server reads it, and return the path."""
    folder = base / "serving"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{spec.port or 'any'}.spec.json"
    artifacts.write_json(path, spec.model_dump(mode="json"))
    return path


if TYPE_CHECKING:
    from flows.model_ref import ModelFolders
