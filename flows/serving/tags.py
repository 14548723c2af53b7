"""In MLflow's registry, each version of a served model says where it is served. On the side: no trouble is an error."""

from pathlib import Path
from typing import Any

from flows.background import in_background
from flows.tracking_record import default_store
from flows.tracking_store import Store
from nanochat_core import artifacts, paths


def tag_name(port: int) -> str:
    """Return the tag's name: one for each port of a host.

    >>> tag_name(8000)
    'served.8000'
    """
    return f"served.{port}"


def tag_served(base: Path, model: Path, port: int, words: str) -> None:
    """Put `words` on every version with the content of this folder, in the background."""
    in_background(lambda: set_tag(base, model, port, words))


def untag_served(base: Path, model: Path, port: int, words: str) -> None:
    """Take them away again, in the background, where they are still these: a later server has words of its own."""
    in_background(lambda: remove_tag(base, model, port, words))


def set_tag(base: Path, model: Path, port: int, words: str) -> None:
    if (store := existing_store(base)) is not None:
        for version in versions_of(store, model):
            store.client.set_model_version_tag(version.name, version.version, tag_name(port), words)


def remove_tag(base: Path, model: Path, port: int, words: str) -> None:
    if (store := existing_store(base)) is not None:
        for version in versions_of(store, model):
            if version.tags.get(tag_name(port)) == words:
                store.client.delete_model_version_tag(version.name, version.version, tag_name(port))


def existing_store(base: Path) -> Store | None:
    """Return the tracking store, unless it would have to be made first."""
    store = Store(base)
    is_missing = store.uri == default_store(base) and not (paths.mlflow_dir(base) / "mlflow.db").exists()
    return None if is_missing else store


def versions_of(store: Store, model: Path) -> list[Any]:
    """Return the versions with this content, of all registered models."""
    manifest = artifacts.read_manifest(model)
    if manifest is None:
        return []
    return list(store.client.search_model_versions(f"tags.digest = '{manifest.digest}'"))
