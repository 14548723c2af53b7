"""From the name that a user gives a model to a folder; the rest of the project sees folders only."""

from dataclasses import dataclass
from pathlib import Path

from flows import registry
from flows.pipeline_run import NEWEST
from nanochat_core import artifacts, paths
from nanochat_core.errors import ArtifactError, SpecError, did_you_mean
from nanochat_core.model_chain import CALLED, models_among, own_model, part_named


@dataclass(frozen=True)
class ModelFolders:
    """Where a model lies, and the tokenizer that it was trained with."""

    model: Path
    tokenizer: Path


def find_model(reference: str | None, base: Path) -> ModelFolders:
    """Return the folders of `base|mid|sft|dpo|rl` or the name of a stage in `finetune` (newest run), of an artifact
    folder, or of `models:/NAME@alias` or `models:/NAME/VERSION` (MLflow's registry); None is the newest chat model.

    Raises SpecError for a name that means nothing, ArtifactError for a model that is not there, and NanochatError for
    a registry that does not answer.
    """
    if reference is None:
        return _folders(_newest_chat_model(base))
    if registry.is_model_reference(reference):
        return _folders(registry.find_registered(reference, base))
    folders = _newest_folders(base)
    if reference in CALLED or own_model(reference).stage in folders:
        return _folders(_of_newest_run(reference, base))
    if Path(reference).is_dir():
        return _folders(Path(reference).absolute())
    known = {*CALLED, *(model.name for model in models_among(folders))}
    raise SpecError(f"{reference!r} is no model and no artifact folder{did_you_mean(reference, known)}.")


def short_name(reference: str | None) -> str:
    """Return what a model is called in a name: of a folder, its last two parts.

    >>> short_name("/base/artifacts/sft/0123456789abcdef"), short_name("models:/nanochat-chat@champion")
    ('sft/0123456789abcdef', 'nanochat-chat@champion')
    """
    if reference is None:
        return "newest chat model"
    if registry.is_model_reference(reference):
        return reference.removeprefix(registry.PREFIX)
    return "/".join(Path(reference).parts[-2:])


def check_weights(folders: ModelFolders) -> None:
    """Raise ArtifactError where the model's weights were removed: it counts as made, but cannot be loaded."""
    manifest = artifacts.read_manifest(folders.model)
    if manifest is not None and manifest.is_pruned:
        stage = part_named(manifest.stage)
        raise ArtifactError(
            f"The weights in {folders.model} were removed by `nanochat gc`. `nanochat stage {stage} RECIPE "
            f"--force {stage}`, with the options of then, makes them again."
        )


def _newest_folders(base: Path) -> dict[str, str]:
    """Return {stage: folder} of the newest run, in the order in which they were made; empty where there is none."""
    folders: dict[str, str] = artifacts.read_json(base / NEWEST)["folders"] if (base / NEWEST).exists() else {}
    return folders


def _made_in_newest_run(base: Path) -> dict[str, Path]:
    """Return {name: folder} of the newest run's models that say something, in the order of their training."""
    folders = _newest_folders(base)
    if not folders:
        raise ArtifactError(f"There is no model in {base} yet: `nanochat run demo` trains one.")
    speaking = [model for model in models_among(folders) if model.is_speaking]
    return {model.name: paths.artifacts_dir(base) / folders[model.stage] for model in speaking}


def _newest_chat_model(base: Path) -> Path:
    chat = [folder for name, folder in _made_in_newest_run(base).items() if name != "base"]
    if not chat:
        raise ArtifactError("The newest run has no chat model yet: run it to its end, or name a model's folder.")
    return chat[-1]


def _of_newest_run(name: str, base: Path) -> Path:
    made = _made_in_newest_run(base)
    if name not in made:
        raise ArtifactError(f"The newest run has no model {name!r} (it has: {', '.join(made) or 'none'}).")
    return made[name]


def _folders(model: Path) -> ModelFolders:
    manifest = artifacts.read_manifest(model)
    if manifest is None and (model / "config.json").is_file():
        raise ArtifactError(f"{model} is a folder of transformers: `nanochat import {model}` makes it a model of ours.")
    if manifest is None:
        raise ArtifactError(f"{model} holds no finished stage (no manifest.json): run its stage to the end first.")
    if "tokenizer" not in manifest.inputs:
        raise ArtifactError(f"{model} holds the output of {manifest.stage}, which is no model.")
    return ModelFolders(model, artifacts.StageFolder(model).input("tokenizer"))
