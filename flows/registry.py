"""MLflow's model registry: each finished model is a version, by reference. The bytes stay in the artifact folder.

nanochat-<recipe>-<stage>      one registered model for each recipe and training stage
@newest                        the version that was registered last
@best                          the version whose headline metric is the best so far

Registration moves these two by itself. @champion is what a promotion has found to be no worse than the champion before
it, on the same examples (flows/promote.py); nothing else moves it (docs/decisions/0019).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from flows.tracking_record import RunRecord
from flows.tracking_store import Store, is_refusal, reason
from nanochat_core import paths
from nanochat_core.artifacts import Manifest, read_manifest
from nanochat_core.errors import ArtifactError, NanochatError, SpecError, did_you_mean
from nanochat_core.model_chain import made_by, part_named

NEWEST, BEST, CHAMPION = "newest", "best", "champion"
AUTOMATIC = (NEWEST, BEST)  # aliases that registration moves
PREFIX = "models:/"
HEADLINES: dict[str, tuple[str, bool]] = {  # kind of training -> headline metric, and whether a higher one is better
    "pretrain": ("val_bpb_last", False),
    "finetune": ("val_loss_last", False),
    "dpo": ("val_accuracy_last", True),
    "rl": ("reward_after", True),
}


def model_name(recipe: str, stage: str) -> str:
    """Return the registered model's name.

    >>> model_name("demo", "sft"), model_name("demo", "finetune_dolly")
    ('nanochat-demo-sft', 'nanochat-demo-dolly')
    """
    return f"nanochat-{recipe}-{part_named(stage)}"


def register(store: Store, run_id: str, record: RunRecord) -> None:
    """Register the finished stage of `record`, once for each content, and move the aliases. May be repeated."""
    assert record.folder is not None
    manifest = read_manifest(record.folder)
    if manifest is None:
        raise ArtifactError(f"{record.folder} holds no finished stage (no manifest.json)")
    name = model_name(record.tags["recipe"], manifest.stage)
    version = enter(store, name, record.folder, manifest, run_id)
    versions = store.client.search_model_versions(f"name = '{name}'")
    others = [v for v in versions if v.version != version.version]
    if all(manifest.created >= float(other.tags.get("created", 0)) for other in others):  # not a late back-fill
        store.client.set_registered_model_alias(name, NEWEST, version.version)
    if is_best(manifest, others):
        store.client.set_registered_model_alias(name, BEST, version.version)


def enter(store: Store, name: str, folder: Path, manifest: Manifest, run_id: str | None) -> Any:
    """Return the version of the model `name` with this content; where there is none, it and the model are made."""
    ensure_model(store, name)
    versions = store.client.search_model_versions(f"name = '{name}'")
    version = next((v for v in versions if v.tags.get("digest") == manifest.digest), None)
    if version is None:
        return create_version(store, name, run_id, manifest, folder)
    if version.tags.get("folder") != str(folder):
        store.client.set_model_version_tag(name, version.version, "folder", str(folder))
    return version


def ensure_model(store: Store, name: str) -> None:
    try:
        store.client.create_registered_model(name, description="A stage of the nanochat pipeline, by reference.")
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise


def create_version(store: Store, name: str, run_id: str | None, manifest: Manifest, folder: Path) -> Any:
    """Create a version that points at the folder. A server refuses file:// sources, so it goes by an external model."""
    import mlflow

    tags = version_tags(manifest, folder)
    mlflow.set_tracking_uri(store.uri)  # create_external_model knows no other way
    model = mlflow.create_external_model(
        name=f"{manifest.stage}-{manifest.fingerprint[:8]}",
        source_run_id=run_id,
        tags=tags,
        model_type=manifest.stage,
        experiment_id=store.experiment_id,
    )
    return store.client.create_model_version(
        name, source=f"{PREFIX}{model.model_id}", run_id=run_id, tags=tags, model_id=model.model_id
    )


def version_tags(manifest: Manifest, folder: Path) -> dict[str, str]:
    tags = {
        "folder": str(folder),
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "git_commit": manifest.git_commit or "unknown",
        "created": f"{manifest.created:.3f}",
    }
    metric, _ = headline_of(manifest.stage)
    return tags | ({metric: str(manifest.metrics[metric])} if metric in manifest.metrics else {})


def headline_of(stage: str) -> tuple[str, bool]:
    """Return the metric that a stage's models are ranked by, and whether a higher one is better; "" for none."""
    model = made_by(stage)
    return HEADLINES.get(model.training, ("", True)) if model else ("", True)


def is_best(manifest: Manifest, others: list[Any]) -> bool:
    """Tell whether no other version has a better headline metric."""
    metric, is_higher_better = headline_of(manifest.stage)
    own = manifest.metrics.get(metric)
    if not isinstance(own, int | float):
        return not others
    rivals = [float(version.tags[metric]) for version in others if metric in version.tags]
    return all(own >= rival if is_higher_better else own <= rival for rival in rivals)


def is_model_reference(reference: str) -> bool:
    return reference.startswith(PREFIX)


def find_registered(reference: str, base: Path) -> Path:
    """Return the artifact folder of `models:/NAME@alias` or `models:/NAME/VERSION`.

    Raises SpecError for a name, alias or version that is not registered, ArtifactError where the folder is gone, and
    NanochatError where the store does not answer.
    """
    store = Store(base)
    with answering(store, reference):
        version = find_version(store, reference)
    return folder_of(version, reference, base)


@contextmanager
def answering(store: Store, about: str) -> Iterator[None]:
    """Turn whatever the store's trouble is into a NanochatError that names what was asked `about`."""
    try:
        yield
    except NanochatError:
        raise
    except Exception as error:
        raise NanochatError(
            f"{about}: MLflow at {store.address} does not answer ({reason(error)}). "
            "Start it with `nanochat up`, or name the model by its folder."
        ) from None


def version_with_alias(store: Store, name: str, alias: str) -> Any | None:
    """Return the version of a registered model that has the alias; None where no model or no version has it."""
    try:
        return store.client.get_model_version_by_alias(name, alias)
    except Exception as error:
        if is_refusal(error):
            return None
        raise


def find_version(store: Store, reference: str) -> Any:
    """Return the version that a reference means; raises SpecError where there is none."""
    name, at, alias = reference.removeprefix(PREFIX).partition("@")
    if not at:
        name, _, number = name.rpartition("/")
    name = unquote(name)
    if not name or not (alias if at else number):
        raise SpecError(f"{reference!r} names no model: write models:/NAME@alias or models:/NAME/VERSION.")
    known = [model.name for model in store.client.search_registered_models()]
    if name not in known:
        raise SpecError(f"No model {name!r} is registered in {store.address}{did_you_mean(name, known)}.")
    try:
        if at:
            return store.client.get_model_version_by_alias(name, alias)
        return store.client.get_model_version(name, number)
    except Exception as error:
        if not is_refusal(error):
            raise
    model = store.client.get_registered_model(name)
    if at:
        raise SpecError(f"The model {name} has no alias {alias!r}{did_you_mean(alias, model.aliases)}.")
    numbers = [str(version.version) for version in store.client.search_model_versions(f"name = '{name}'")]
    raise SpecError(f"The model {name} has no version {number!r} (it has: {', '.join(sorted(numbers)) or 'none'}).")


def folder_of(version: Any, reference: str, base: Path) -> Path:
    """Return where the version's files are: where they were made, or the same artifact below this base folder."""
    if "folder" not in version.tags:
        raise SpecError(f"{reference} was not registered by nanochat: its version has no tag 'folder'.")
    made_in = Path(version.tags["folder"])
    for folder in (made_in, paths.artifacts_dir(base) / made_in.parent.name / made_in.name):
        manifest = read_manifest(folder)
        if manifest is not None and manifest.digest == version.tags["digest"]:
            return folder
    raise ArtifactError(
        f"{reference} is registered, but its folder {made_in} is gone or holds something else. "
        "Run its pipeline again, or bring the folder back."
    )
