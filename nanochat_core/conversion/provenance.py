"""Where an artifact came from and how it scored, as far as the folders around it tell: for manifests and cards."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_core import artifacts
from nanochat_core.artifacts import Manifest, StageFolder
from nanochat_core.errors import ArtifactError


@dataclass(frozen=True)
class Score:
    """One task's result; `stderr` and `examples` where they were recorded."""

    task: str
    metric: str
    value: float
    stderr: float | None = None
    examples: int | None = None


@dataclass(frozen=True)
class Provenance:
    """A finished stage, as others see it: `artifact` is its place below artifacts/, `inputs` are all behind it."""

    artifact: str | None = None
    digest: str | None = None
    fingerprint: str | None = None
    git_commit: str | None = None
    metrics: dict[str, float | int | str | None] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    text: str | None = None  # the data set of the pretraining, in words


def provenance_of(folder: Path) -> Provenance:
    """Return what is known about the artifact in `folder`; all is empty for a folder that holds no finished stage."""
    manifest = artifacts.read_manifest(folder)
    if manifest is None:
        return Provenance()
    behind = _ancestors(folder)
    return Provenance(
        artifact=f"{folder.parent.name}/{folder.name}",
        digest=manifest.digest,
        fingerprint=manifest.fingerprint,
        git_commit=manifest.git_commit,
        metrics=dict(manifest.metrics),
        scores=_scores(folder.parent.parent, manifest),
        inputs={stage: f"{path.parent.name}/{path.name}" for stage, path in behind.items()},
        text=_text(behind.get("download")),
    )


def _ancestors(folder: Path) -> dict[str, Path]:
    """Return {stage: folder} of all that the artifact was made from and that is still here, the nearest first."""
    found: dict[str, Path] = {}
    waiting = [folder]
    while waiting:
        try:
            opened = StageFolder(waiting.pop(0))
        except ArtifactError:  # copied without it, or gone
            continue
        for name in opened.request.inputs:
            source = opened.input(name)
            if source.is_dir() and source.parent.name not in found:
                found[source.parent.name] = source
                waiting.append(source)
    return found


def _text(download: Path | None) -> str | None:
    manifest = artifacts.read_manifest(download) if download else None
    if manifest is None:
        return None
    source = manifest.params.get("source")
    return {"hub": manifest.params.get("dataset"), "local": "documentation of Python and its packages"}.get(
        str(source), "text files of the trainer's own"
    )


def _scores(root: Path, model: Manifest) -> tuple[Score, ...]:
    """Return the newest evaluation of the model, of all below `root`."""
    found = [
        manifest
        for path in root.glob("evaluate_*/*")
        if (manifest := artifacts.read_manifest(path)) and manifest.inputs.get("model") == model.digest
    ]
    if not found:
        return ()
    return tuple(_scores_in(max(found, key=lambda manifest: manifest.created).metrics))


def _scores_in(metrics: dict[str, Any]) -> list[Score]:
    """Return headline numbers as scores: a task's accuracy with what is known about it, others as they are.

    >>> _scores_in({"core": 0.2, "accuracy/Facts": 0.75, "stderr/Facts": 0.03, "n/Facts": 500})
    [Score(task='all', metric='core', value=0.2, stderr=None, examples=None), \
Score(task='Facts', metric='accuracy', value=0.75, stderr=0.03, examples=500)]
    """
    scores = []
    for name, value in metrics.items():
        kind, _, task = name.partition("/")
        if not isinstance(value, int | float):
            continue
        if not task:
            scores.append(Score("all", name, value))
        elif kind == "accuracy":
            scores.append(Score(task, kind, value, metrics.get(f"stderr/{task}"), metrics.get(f"n/{task}")))
    return scores
