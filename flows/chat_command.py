"""`nanochat chat`: talk with a model in this terminal, here or on a server, or ask it one thing."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import launch
from flows.field_changes import parse_changes
from flows.terminal import in_one_line
from nanochat_core import paths
from nanochat_core.hardware import usable_cores
from nanochat_core.inference.chat.spec import parse_chat

MODULE = "nanochat_core.inference.chat.cli"


@in_one_line
def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            help="base, mid, sft, rl, a stage of finetune, models:/NAME@alias, or a folder; default: the newest chat "
            "model. With --url: the name of a model there; default: the first"
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="ask this, print the answer and end; -: what comes on stdin")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="talk with a server that speaks OpenAI's API, for example http://127.0.0.1:8000")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file with that server's API key; default: $NANOCHAT_API_KEY, if any")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 (the default): always the likeliest token")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="longest answer in tokens")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="system, top_k, top_p, min_p, seed, or precision (of a model here); repeatable"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the one answer as JSON")] = False,
) -> None:
    """Talk with a model in the terminal: one of your own, or with --url one on a server.

    With -p, or text piped in, it answers once and prints nothing but the answer.
    """
    given = {"temperature": temperature, "max_tokens": max_tokens}
    settings = parse_changes(changes or []) | {name: value for name, value in given.items() if value is not None}
    values: dict[str, Any] = {"prompt": prompt, "as_json": as_json, "url": url}
    if "precision" in settings:
        values["precision"] = settings.pop("precision")
    if api_key_file is not None:
        values["api_key_file"] = os.path.abspath(os.path.expanduser(api_key_file))
    spec = parse_chat(values | {"settings": settings} | ({"model_name": model} if url else folders(model)))
    launch.become(MODULE, [spec.model_dump_json()], None if url else computing_environment())


def computing_environment() -> dict[str, str]:
    """Return what a model in this terminal computes best with; the threads are the user's choice, or all cores."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
    return launch.process_environment(
        paths.base_dir(), threads=threads, device=os.environ.get("NANOCHAT_DEVICE"), answers=True
    )


def folders(model: str | None) -> dict[str, str]:
    """Return where a model of this base folder lies; raises NanochatError where it cannot be loaded."""
    from flows.model_ref import check_weights, find_model  # imports Prefect

    found = find_model(model, paths.base_dir())
    check_weights(found)
    return {"model_folder": str(found.model), "tokenizer_folder": str(found.tokenizer)}
