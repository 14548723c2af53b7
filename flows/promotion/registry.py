"""The champion's place in MLflow's registry: who has it, who is moved into it, and what is noted of those kept out."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import locks, registry
from flows.lineage import manifest_of
from flows.progress import warn
from flows.tracking_record import default_store
from flows.tracking_store import Store
from nanochat_core import paths
from nanochat_core.errors import NanochatError, SpecError

CHAT, BASE = "nanochat-chat", "nanochat-base"  # the registered models whose champion stands for all recipes
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Place:
    """An alias of a registered model, which one of its versions has. Raises NanochatError where MLflow does not answer.

    A version's `folder` tag says where its files are (flows/registry.py).
    """

    store: Store
    name: str
    alias: str

    @property
    def reference(self) -> str:
        return f"{registry.PREFIX}{self.name}@{self.alias}"

    def champion(self) -> Any | None:
        """Return the version that has the place, or None."""
        with registry.answering(self.store, self.reference):
            return registry.version_with_alias(self.store, self.name, self.alias)

    def enter(self, folder: Path) -> Any:
        """Return the version with the content of this artifact folder; where there is none, it is made."""
        manifest = manifest_of(folder)
        with registry.answering(self.store, self.reference):
            run_id = manifest.mlflow_run_id
            known = run_id if run_id and self.store.has(run_id) else None
            return registry.enter(self.store, self.name, folder, manifest, known)

    def move(self, version: Any, *, after: Any | None, base: Path) -> None:
        """Give the place to `version`, if it is still that of `after`, with whom it was compared.

        Raises NanochatError where another promotion came in between.
        """
        with locks.hold(paths.locks_dir(base) / "promotion.lock", on_wait=warn):
            now = self.champion()
            if (now and now.version) != (after and after.version):
                raise NanochatError(
                    f"{self.reference} became version {now.version if now else 'none'} while version {version.version} "
                    "was compared with the one before: promote it again."
                )
            with registry.answering(self.store, self.reference):
                self.store.client.set_registered_model_alias(self.name, self.alias, version.version)

    def note(self, version: Any, tags: Mapping[str, str], description: str) -> None:
        """Leave tags and a description (markdown) on the version."""
        with registry.answering(self.store, self.reference):
            for key, value in tags.items():
                self.store.client.set_model_version_tag(self.name, version.version, key, value)
            self.store.client.update_model_version(self.name, version.version, description=description)


def place_for(base: Path, *, stage: str, name: str | None, alias: str) -> Place:
    """Return the place that a model of `stage` competes for. Raises SpecError for an alias that nobody may have."""
    if alias in registry.AUTOMATIC:
        raise SpecError(f"@{alias} is moved by registration itself: promote to another alias, champion for example.")
    if not ALIAS.fullmatch(alias) or re.fullmatch(r"v\d+", alias):  # MLflow keeps v1, v2, … for itself
        raise SpecError(f"{alias!r} cannot be an alias: use letters, digits, '_' and '-', a letter first.")
    return Place(Store(base), name or (BASE if stage == "pretrain" else CHAT), alias)


def champion_folder(base: Path) -> Path | None:
    """Return the folder of the chat model that was promoted last, or None where none ever was.

    Raises NanochatError where the registry does not answer, or where that folder is gone.
    """
    store = Store(base)
    if store.uri == default_store(base) and not (paths.mlflow_dir(base) / "mlflow.db").exists():
        return None
    place = Place(store, CHAT, registry.CHAMPION)
    version = place.champion()
    return None if version is None else registry.folder_of(version, place.reference, base)


def today() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
