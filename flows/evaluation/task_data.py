"""Which task data a model is asked from: its own where that has all that is needed, else what is here, else the Hub's.

So a model of the built-in text can be asked GSM8K, and a model behind a URL anything at all.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from flows.download import OWN_DATA
from flows.lineage import outcome_of
from flows.stage import StageOutcome
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import Manifest
from nanochat_core.data.own import persona
from nanochat_core.errors import ArtifactError
from nanochat_core.specs import TaskDataset, TaskDataSpec, parse_params


@dataclass(frozen=True)
class AskedData:
    """Task data, and where it lies; None: it is to be fetched."""

    spec: TaskDataSpec
    outcome: StageOutcome | None


def data_for(needed: Set[str], base: Path, *, own: Sequence[StageOutcome], given: Path | None = None) -> AskedData:
    """Return task data that has these data sets.

    `own` is that of the models, the first first; `given` is what the user insists on, with or without all that is
    needed. Where no model has a persona of its own, that of the package will do. What is to be fetched comes from where
    the models' own data came from, if that was the Hub. Raises ArtifactError where `given` is no task data.
    """
    if given is not None:
        return in_folder(given)
    found = [in_folder(outcome.folder) for outcome in own]
    persona_path = next((path for data in found if (path := data.spec.persona_path)), None)
    if persona_path is None:
        needed = needed - {persona.DATASET}
    for data in found:
        if data.outcome and not data.outcome.is_pruned and needed <= set(datasets_of(data.spec)):
            return data
    like = next((data.spec for data in found if data.spec.source == "hub"), TaskDataSpec())
    names = tuple(name for name in get_args(TaskDataset) if name in needed)
    own_files = dict.fromkeys(OWN_DATA) | ({"persona_path": persona_path} if persona.DATASET in needed else {})
    spec = like.model_copy(update={"datasets": names, **own_files})
    return newest_with(needed, spec, base) or AskedData(spec, None)


def newest_with(needed: Set[str], like: TaskDataSpec, base: Path) -> AskedData | None:
    """Return task data here that has these data sets, if there is any that is whole: best from the same addresses, then
    from the Hub, then the newest."""
    contents = frozenset({"datasets", *OWN_DATA})
    known: list[tuple[bool, bool, float, Path]] = []
    for folder in (paths.artifacts_dir(base) / "task_data").glob("*"):
        manifest = artifacts.read_manifest(folder)
        if manifest is None or not is_usable(folder, manifest):
            continue
        spec = spec_of(manifest)
        if needed <= set(datasets_of(spec)):
            is_like = spec.output_params(exclude=contents) == like.output_params(exclude=contents)
            known.append((is_like, spec.source == "hub", manifest.created, folder))
    return in_folder(max(known)[3]) if known else None


def is_usable(folder: Path, manifest: Manifest) -> bool:
    return not manifest.is_pruned and not artifacts.damaged_files(folder, manifest)


def in_folder(folder: Path) -> AskedData:
    """Return the task data in a folder; raises ArtifactError where there is none."""
    manifest = artifacts.read_manifest(folder)
    if manifest is None or manifest.stage != "task_data":
        raise ArtifactError(f"{folder} holds no task data: name a folder below artifacts/task_data.")
    return AskedData(spec_of(manifest), outcome_of(folder.absolute()))


def spec_of(manifest: Manifest) -> TaskDataSpec:
    return parse_params(TaskDataSpec, manifest.params)


def datasets_of(spec: TaskDataSpec) -> Sequence[str]:
    """Return what there is: without the Hub, words of the text; and what the user brought along."""
    own = (name for field, (name, _) in OWN_DATA.items() if getattr(spec, field))
    return [*(cast(Sequence[str], spec.datasets) if spec.source == "hub" else ("words",)), *own]
