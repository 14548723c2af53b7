"""Training that goes on from a finished model (`pretrain.start_from`, `sft.start_from`, …), for example an imported
one: its folder is an input that is never made, and its tokenizer is the tokenizer of the run.

Its digest is part of the new fingerprint, as that of any input; its shape fills in what a pretraining leaves empty.
"""

from dataclasses import replace
from pathlib import Path

from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core import artifacts, paths
from nanochat_core.artifacts import Manifest, StageFolder
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.model.context import continued
from nanochat_core.model_chain import MODELS, Model, made_by, models_of, part_named, training_of
from nanochat_core.specs import ModelSpec, PipelineSpec, parse_params

TOKENIZER = "tokenizer"
SPEAKING = tuple(model.stage for model in MODELS if model.is_speaking)


def earlier_of(part: str) -> Stage:
    """Return what stands for the model that the training `part` starts from, where its spec names one."""
    return Stage(
        name=f"earlier_{part}",
        part=part,
        module="",  # none makes it
        version=1,
        params=lambda spec: StageParams.of(spec.pretrain),
    )


def with_earlier(spec: PipelineSpec, base: Path) -> tuple[PipelineSpec, dict[str, StageOutcome]]:
    """Return the resolved spec with the context that an earlier model gives its pretraining, and {stage: outcome} of
    the earlier models and of their tokenizer.

    Both are as they were where the spec starts from nothing. Raises SpecError where a folder is no finished model of
    this base folder, has another shape, or another tokenizer than the spec or another of the models.
    """
    outcomes: dict[str, StageOutcome] = {}
    for model in models_of(spec):
        training = training_of(spec, model.part)
        if training is None or training.start_from is None:
            continue
        folder = earlier_folder(training.start_from, base, model.field)
        manifest = artifacts.read_manifest(folder)
        if manifest is None or not _can_begin(model, manifest):
            found = "holds no finished stage" if manifest is None else f"holds the output of {manifest.stage}"
            wanted = "a finished pretraining" if model.part == "pretrain" else f"a finished {', '.join(SPEAKING)}"
            raise SpecError(f"{model.field}.start_from: {folder} {found}; expected the folder of {wanted}.")
        if model.part == "pretrain":
            spec = _with_shape(spec, folder, manifest)
        earlier = earlier_of(model.part).name
        outcomes[earlier] = replace(StageOutcome.of(folder, manifest), stage=earlier)
        outcomes |= _tokenizer(spec, folder, manifest, model.field, outcomes.get(TOKENIZER))
    return spec, outcomes


def _can_begin(model: Model, manifest: Manifest) -> bool:
    """Tell whether what the manifest is of can be the beginning of a model's training."""
    if model.part == "pretrain":
        return manifest.stage == "pretrain"
    found = made_by(manifest.stage)
    return found is not None and found.is_speaking


def _with_shape(spec: PipelineSpec, folder: Path, manifest: Manifest) -> PipelineSpec:
    try:
        model = continued(parse_params(ModelSpec, manifest.params["model"]), spec.pretrain.model)
    except SpecError as error:
        raise SpecError(f"pretrain.start_from: {folder}: {error}") from None
    return spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"model": model})})


def _tokenizer(
    spec: PipelineSpec, folder: Path, manifest: Manifest, field: str, known: StageOutcome | None
) -> dict[str, StageOutcome]:
    """Return the tokenizer of the model in `folder` as the run's own. Raises SpecError where it does not fit."""
    if TOKENIZER not in manifest.inputs:
        return {}
    place = StageFolder(folder).input(TOKENIZER)
    found = artifacts.read_manifest(place)
    if found is None or artifacts.damaged_files(place, found):
        raise SpecError(f"{field}.start_from: the tokenizer of {folder}, in {place}, is damaged or gone.")
    if known is not None and known.digest != found.digest:
        raise SpecError(
            f"{field}.start_from: {folder} has another tokenizer than the model that pretraining starts from."
        )
    size = found.metrics.get("vocab_size")
    if size not in (None, spec.tokenizer.vocab_size):
        raise SpecError(
            f"{field}.start_from: {folder} has a vocabulary of {size} tokens, tokenizer.vocab_size is "
            f"{spec.tokenizer.vocab_size}: set it to {size}, for the model brings its tokenizer along."
        )
    return {TOKENIZER: StageOutcome.of(place, found)}


def earlier_folder(reference: str, base: Path, field: str = "pretrain") -> Path:
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
        raise SpecError(f"{field}.start_from: there is no folder {reference!r}, here or in {root}.")
    if folder.parent.parent != root:
        raise SpecError(f"{field}.start_from: {folder} is no stage's folder in {root}; copy it there first.")
    return paths.artifacts_dir(base) / folder.relative_to(root)


def check_is_whole(outcome: StageOutcome, part: str = "pretrain") -> None:
    """Raise ArtifactError where an earlier model is needed and `nanochat gc` has removed its weights."""
    if outcome.is_pruned:
        stage = part_named(outcome.folder.parent.name)
        raise ArtifactError(
            f"The weights in {outcome.folder} ({part}.start_from) were removed by `nanochat gc`. Train it again with "
            f"the options of then: `nanochat stage {stage} RECIPE --force {stage}`."
        )
