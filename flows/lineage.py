"""What a finished model was made from: its manifests and specs lead from folder to folder, back to the text.

No recipe is needed for that, so that any checkpoint can be evaluated, that of a sweep or of another machine too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.stage import StageOutcome
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import Manifest, StageFolder
from nanochat_core.errors import ArtifactError
from nanochat_core.specs import ModelSpec, TaskDataSpec, parse_params


@dataclass(frozen=True)
class Lineage:
    """A model and the finished stages behind it, by stage; of several of one stage, the one nearest to the model."""

    stage: str
    outcomes: Mapping[str, StageOutcome]

    @property
    def model(self) -> StageOutcome:
        return self.outcomes[self.stage]

    def params(self, stage: str) -> dict[str, Any]:
        """Return what a stage was told."""
        return manifest_of(self.outcomes[stage].folder).params

    @property
    def shape(self) -> ModelSpec:
        """The shape that the nearest pretraining, or imported model, gave to the weights."""
        manifests = (manifest_of(outcome.folder) for outcome in self.outcomes.values())
        return next(parse_params(ModelSpec, found.params["model"]) for found in manifests if has_shape(found))

    @property
    def task_data(self) -> TaskDataSpec:
        return parse_params(TaskDataSpec, self.params("task_data"))


def lineage_of(model: Path, base: Path, *, needs_data: bool = True) -> Lineage:
    """Return the lineage of the model in an artifact folder.

    A base model knows no task data: the newest of the same text is taken, else the newest from the Hub. An imported one
    knows no text either: it gets the newest of both. Raises ArtifactError where a folder is gone or unfinished, or
    where there is no task data, but that it `needs_data`.
    """
    folders = dict(ancestors(model))
    if not any(has_shape(manifest_of(folder)) for folder in folders.values()):
        raise ArtifactError(f"{model} does not descend from a pretraining here: it cannot be evaluated.")
    if "task_data" not in folders:
        try:
            folders["task_data"] = task_data_for(folders.get("download"), base)
        except ArtifactError:
            if needs_data:
                raise
    if "download" not in folders and (text := text_for(folders.get("task_data"), base)) is not None:
        folders["download"] = text
    return Lineage(model.parent.name, {stage: outcome_of(folder) for stage, folder in folders.items()})


def ancestors(folder: Path) -> dict[str, Path]:
    """Return {stage: folder} of a stage and of all that it was made from, the nearest first."""
    found = {manifest_of(folder).stage: folder}
    waiting = [folder]
    while waiting:
        opened = StageFolder(waiting.pop(0))
        for name in opened.request.inputs:
            source = opened.input(name)
            if source in found.values():
                continue
            waiting.append(source)
            stage = source.parent.name
            found.setdefault(stage if stage not in found else f"earlier_{stage}", source)
    return found


def has_shape(manifest: Manifest) -> bool:
    """Tell whether it is a pretraining's, or an imported model's: these say which shape the weights have."""
    return isinstance(manifest.params.get("model"), dict)


def task_data_for(text: Path | None, base: Path) -> Path:
    """Return the newest task data whose words are from this text, else the newest from the Hub; without a text, the
    newest of all.
    """
    known = [
        (manifest.params.get("source") == "hub", manifest.created, folder)
        for folder in (paths.artifacts_dir(base) / "task_data").glob("*")
        if (manifest := artifacts.read_manifest(folder)) is not None
    ]
    if text is None and known:
        return max(known, key=lambda entry: entry[1])[2]
    of_text = [entry for entry in known if not entry[0] and StageFolder(entry[2]).input("text") == text]
    if not (fitting := of_text or [entry for entry in known if entry[0]]):
        of_model = f"a model of the text in {text}" if text else "an imported model"
        raise ArtifactError(f"There is no task data for {of_model}: `nanochat stage task_data RECIPE` makes it.")
    return max(fitting)[2]


def text_for(task_data: Path | None, base: Path) -> Path | None:
    """Return the text that an imported model is measured on: that of the task data, else the newest, if any."""
    if task_data is not None and "text" in StageFolder(task_data).request.inputs:
        return StageFolder(task_data).input("text")
    folders = (paths.artifacts_dir(base) / "download").glob("*")
    known = [(manifest.created, folder) for folder in folders if (manifest := artifacts.read_manifest(folder))]
    return max(known)[1] if known else None


def manifest_of(folder: Path) -> Manifest:
    """Return a finished folder's manifest; raises ArtifactError where there is none."""
    manifest = artifacts.read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"{folder} holds no finished stage (no manifest.json): run its stage to the end first.")
    return manifest


def outcome_of(folder: Path) -> StageOutcome:
    """Return a finished stage as the pipeline sees one that it reuses. Raises ArtifactError for damaged outputs."""
    manifest = manifest_of(folder)
    if problems := artifacts.damaged_files(folder, manifest):
        raise ArtifactError(f"In {folder}, {problems[0]}: run its pipeline again, which makes it anew.")
    return StageOutcome.of(folder, manifest)
