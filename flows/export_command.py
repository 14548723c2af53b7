"""`nanochat export` and `nanochat import`: models to folders that transformers loads, and from such folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import launch
from flows.terminal import in_one_line
from nanochat_core import paths
from nanochat_core.errors import SpecError, did_you_mean

EXPORTING, IMPORTING = "nanochat_core.conversion.exporting", "nanochat_core.conversion.importing"
LOGGING = "deployments.mlflow_model"
DTYPES = ("fp32", "bf16")
MODEL_HELP = "base, mid, sft, rl, a stage of finetune, models:/NAME@alias, or a folder"


@in_one_line
def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out_folder: Annotated[Path, typer.Argument(help="folder to write; it must be empty, or not there")],
    dtype: Annotated[str, typer.Option(help="fp32, or bf16: half the size, values rounded")] = "fp32",
    check: Annotated[
        bool, typer.Option(help="compare logits, ids and chats with what transformers makes of it")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier export in that folder")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="also log the model, for mlflow models serve")] = False,
) -> None:
    """Write a model as a folder that transformers loads: safetensors, tokenizer, chat template, model card."""
    from flows.model_ref import check_weights, find_model  # imports Prefect

    if dtype not in DTYPES:
        raise SpecError(f"Unknown --dtype {dtype!r}{did_you_mean(dtype, DTYPES)}.")
    base = paths.base_dir()
    folders = find_model(model, base)
    check_weights(folders)
    options = ["--dtype", dtype, *([] if check else ["--no-check"]), *(["--force"] if force else [])]
    if commit := launch.git_commit():
        options += ["--git-commit", commit]
    arguments = [str(folders.model), str(folders.tokenizer), str(out_folder.expanduser().absolute()), *options]
    if not mlflow:
        launch.become(EXPORTING, arguments)
        return
    if code := launch.call(EXPORTING, arguments):
        raise typer.Exit(code)
    log(folders, out_folder.name, base)


def log(folders: "ModelFolders", name: str, base: Path) -> None:
    """Go over to the module that logs the model to MLflow, by reference, in the experiment of all runs."""
    from flows.tracking_store import EXPERIMENT, Store

    store = Store(base)
    assert store.experiment_id  # made where it was not there
    launch.become(
        LOGGING,
        [str(folders.model), str(folders.tokenizer), "--name", name, "--experiment", EXPERIMENT],
        environment={"MLFLOW_TRACKING_URI": store.uri},
    )


@in_one_line
def import_model(
    folder: Annotated[
        Path, typer.Argument(help="of transformers (an export of ours, or a NanoChat model), or of the original's")
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json, or tiktoken's file of ranks; default: what the folder has")
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--as", help="base, mid, sft, dpo or rl; default: what the folder says, else base")
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="have base, mid, sft or rl mean this model from now on")
    ] = False,
) -> None:
    """Make a model from elsewhere one that everything here can evaluate, fine-tune and serve."""
    base = paths.base_dir()
    options = ["--base-dir", str(base)]
    if tokenizer:
        options += ["--tokenizer", str(tokenizer.expanduser().absolute())]
    if stage:
        options += ["--as", stage]
    if newest:
        from flows.pipeline_run import NEWEST

        options += ["--newest-record", str(base / NEWEST)]
    launch.become(IMPORTING, [str(folder.expanduser().absolute()), *options])


if TYPE_CHECKING:
    from flows.model_ref import ModelFolders
