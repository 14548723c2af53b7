"""Who needs an artifact: runs by their reports, the newest run, models with an alias or a server, running stages."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import locks
from flows.pipeline_run import NEWEST
from flows.serving import record as serving_record
from flows.tracking_record import default_store
from flows.tracking_store import Store, reason
from nanochat_core import artifacts, paths
from nanochat_core.errors import ArtifactError
from nanochat_core.model_chain import made_by

FOLDER = re.compile(r"[a-z][a-z0-9_-]*/[0-9a-f]{16}")
DAY = 86_400.0


@dataclass(frozen=True)
class Run:
    """A run or a sweep that has left a report: when, and which folders (relative to artifacts/) it made or used."""

    name: str
    recipe: str
    time: float
    folders: frozenset[str]


@dataclass(frozen=True)
class Usage:
    """Which folders (relative to artifacts/) are needed, and by whom.

    `trouble` is why MLflow's registry could not be asked, if so.
    """

    kept: Mapping[str, str]
    runs: Mapping[str, list[str]]
    models: Mapping[str, list[str]]
    trouble: str | None = None

    def reason_to_keep(self, folder: Path) -> str:
        """Return why a folder is kept, in a few words, or nothing."""
        name = name_of(folder)
        if name in self.models:
            return "registered model"
        if self.trouble and made_by(folder.parent.name) and name not in self.kept:
            return "MLflow could not be asked"
        return self.kept.get(name, "")

    def runs_of(self, folder: Path) -> list[str]:
        return self.runs.get(name_of(folder), [])

    def models_of(self, folder: Path) -> list[str]:
        return self.models.get(name_of(folder), [])


def usage_of(base: Path, *, keep_runs: int, keep_days: float) -> Usage:
    """Return who needs what; the reason that counts for longest comes first."""
    root = paths.artifacts_dir(base)
    kept: dict[str, str] = {}
    runs = sorted(reports(base), key=lambda run: run.time, reverse=True)
    used_by: dict[str, list[str]] = defaultdict(list)
    number_of: dict[str, int] = defaultdict(int)
    for run in runs:
        number_of[run.recipe] += 1
        for name in with_inputs(run.folders, root):
            used_by[name].append(run.name)
            if number_of[run.recipe] <= keep_runs:
                kept.setdefault(name, f"newest {keep_runs} of {run.recipe}")
            elif time.time() - run.time < keep_days * DAY:
                kept.setdefault(name, f"report younger than {keep_days:g} days")
    for name in with_inputs(newest_run(base), root):
        kept.setdefault(name, "newest run")
    kept |= dict.fromkeys(with_inputs(running(root), root), "in use")
    kept |= dict.fromkeys(served(base), "being served")
    models, trouble = registered(base)
    return Usage(kept, used_by, models, trouble)


def name_of(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def reports(base: Path) -> Iterator[Run]:
    """Yield every run and sweep that has left a readable report."""
    for path in paths.reports_dir(base).glob("**/report.json"):
        if path.parent.is_symlink():  # latest
            continue
        try:
            content = artifacts.read_json(path)
        except ArtifactError:
            continue
        own = content.get("run") or content.get("sweep") or {}
        recipe = own.get("recipe") or own.get("base", {}).get("recipe", "unknown")
        yield Run(own.get("name", path.parent.name), recipe, path.stat().st_mtime, frozenset(folders_in(content)))


def folders_in(value: Any) -> Iterator[str]:
    """Yield every artifact folder that is named anywhere in a JSON value.

    >>> sorted(folders_in({"a": ["sft/0123456789abcdef", 3], "b": {"c": "no folder"}}))
    ['sft/0123456789abcdef']
    """
    if isinstance(value, str) and FOLDER.fullmatch(value):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from folders_in(item)


def with_inputs(names: frozenset[str], root: Path) -> set[str]:
    """Return the folders and all that they were made from."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += inputs_of(root / name)
    return found


def inputs_of(folder: Path) -> list[str]:
    try:
        return list(artifacts.StageFolder(folder).request.inputs.values())
    except ArtifactError:  # gone, or no stage has begun there
        return []


def newest_run(base: Path) -> frozenset[str]:
    path = base / NEWEST
    return frozenset(artifacts.read_json(path)["folders"].values()) if path.exists() else frozenset()


def running(root: Path) -> frozenset[str]:
    """Return the folders whose lock somebody holds."""
    return frozenset(name_of(lock.parent) for lock in root.glob("*/*/.lock") if not locks.is_free(lock))


def served(base: Path) -> frozenset[str]:
    """Return the models that are served right now, with their tokenizers: a restarted server reads them again."""
    return frozenset(map(name_of, serving_record.served_folders(base)))


def registered(base: Path) -> tuple[dict[str, list[str]], str | None]:
    """Return {folder: [NAME@alias]} of MLflow's registry, and why it could not be asked, if so."""
    store = Store(base)
    if store.uri == default_store(base) and not (paths.mlflow_dir(base) / "mlflow.db").exists():
        return {}, None
    found: dict[str, list[str]] = defaultdict(list)
    try:
        for model in store.client.search_registered_models():
            for alias, number in model.aliases.items():
                version = store.client.get_model_version(model.name, number)
                if folder := version.tags.get("folder"):
                    found[name_of(Path(folder))].append(f"{model.name}@{alias}")
    except Exception as error:  # whatever its trouble is: what cannot be asked is kept
        return found, reason(error)
    return found, None
