"""Pretraining that goes on from a finished one (`pretrain.start_from`): its folder is an input that is never made.

Its digest is part of the new fingerprint, as that of any input; its shape fills in what the new one leaves empty.
"""

from dataclasses import replace
from pathlib import Path

from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core import artifacts, paths
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.model.context import continued
from nanochat_core.specs import ModelSpec, PipelineSpec, parse_params

EARLIER = Stage(
    name="earlier_pretrain",
    part="pretrain",
    module="",  # none makes it
    version=1,
    params=lambda spec: StageParams.of(spec.pretrain),
)


def with_earlier(spec: PipelineSpec, base: Path) -> tuple[PipelineSpec, dict[str, StageOutcome]]:
    """Return the resolved spec with the context that the earlier model gives it, and that model as {stage: outcome}.

    Both are as they were where the spec starts from nothing. Raises SpecError where the folder is no finished
    pretraining of this base folder, or of another shape.
    """
    reference = spec.pretrain.start_from
    if reference is None:
        return spec, {}
    folder = earlier_folder(reference, base)
    manifest = artifacts.read_manifest(folder)
    if manifest is None or manifest.stage != "pretrain":
        found = "holds no finished stage" if manifest is None else f"holds the output of {manifest.stage}"
        raise SpecError(f"pretrain.start_from: {folder} {found}; expected the folder of a finished pretraining.")
    try:
        model = continued(parse_params(ModelSpec, manifest.params["model"]), spec.pretrain.model)
    except SpecError as error:
        raise SpecError(f"pretrain.start_from: {folder}: {error}") from None
    outcome = replace(StageOutcome.of(folder, manifest), stage=EARLIER.name)
    pretrain = spec.pretrain.model_copy(update={"model": model})
    return spec.model_copy(update={"pretrain": pretrain}), {EARLIER.name: outcome}


def earlier_folder(reference: str, base: Path) -> Path:
    """Return the folder that a user names by its path, or by its place below artifacts/ ("pretrain/0123456789abcdef").

    Raises SpecError where there is none, or it is not below this base folder's artifacts: inputs are named from there.
    """
    root = paths.artifacts_dir(base).resolve()
    try:
        candidates = [root / reference, Path(reference).expanduser().absolute()]
        folder = next((path.resolve() for path in candidates if path.is_dir()), None)
    except (OSError, RuntimeError, ValueError):  # no path at all: an unknown user's home, a name too long, a null byte
        folder = None
    if folder is None:
        raise SpecError(f"pretrain.start_from: there is no folder {reference!r}, here or in {root}.")
    if folder.parent.parent != root:
        raise SpecError(f"pretrain.start_from: {folder} is no stage's folder in {root}; copy it there first.")
    return paths.artifacts_dir(base) / folder.relative_to(root)


def check_is_whole(outcome: StageOutcome) -> None:
    """Raise ArtifactError where the earlier model is needed and `nanochat gc` has removed its weights."""
    if outcome.is_pruned:
        raise ArtifactError(
            f"The weights in {outcome.folder} (pretrain.start_from) were removed by `nanochat gc`. Train it again with "
            "the options of then: `nanochat stage pretrain RECIPE --force pretrain`."
        )
