"""The runs that `nanochat compare` compares: found by the name of a report, in MLflow, or as an artifact folder.

The files of a run are read where they are on this machine; MLflow is asked only for what is not. So a comparison works
without a server, and a run of another machine works without its files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.tracking_params import flat
from flows.tracking_points import PROGRESS, SECONDS, Point, PointReader
from flows.tracking_store import PARENT_TAG, Store, reason
from nanochat_core import paths
from nanochat_core.artifacts import read_json, read_manifest
from nanochat_core.errors import ArtifactError, SpecError, did_you_mean

AXES = {"tokens": PROGRESS["tokens"], "flops": PROGRESS["flops"], "seconds": SECONDS}
CURVES = ("train/loss", "val/loss", "val/bpb", "rl/reward", "rl/held_out_reward", *AXES.values())
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ComparedStage:
    """One stage of a run: what it was asked, what it ended with, and its curves by metric."""

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    points: Mapping[str, Sequence[Point]] = field(default_factory=dict)

    def curve(self, metric: str, by: str) -> Curve:
        """Return (x, value) of a metric over steps, tokens, flops or seconds; empty where it was not measured."""
        points = self.points.get(metric, ())
        if by == "steps":
            return [(float(point.step), point.value) for point in points]
        axis = {point.step: point.value for point in self.points.get(AXES[by], ())}
        return [(axis[point.step], point.value) for point in points if point.step in axis]


@dataclass(frozen=True)
class ComparedRun:
    """One run, and its stages in the order of the pipeline."""

    name: str
    stages: Mapping[str, ComparedStage]


class RunFinder:
    """Finds runs of one base folder. MLflow is asked at most once whether it answers."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._store = Store(base)
        self._parents: list[Any] | None = None
        self.trouble: str | None = None  # why MLflow was of no use

    def find(self, reference: str) -> ComparedRun:
        """Return the run that a name, an id or a folder means; raises SpecError that names close matches."""
        folder = Path(reference)
        if (folder / "spec.json").is_file():
            return ComparedRun(f"{folder.parent.name}/{folder.name}", {folder.parent.name: stage_in(folder)})
        reports = self.reports()
        if reference in reports:
            return self._of_report(reports[reference])
        for parent in self.parents():
            if reference in {parent.info.run_name, parent.info.run_id}:
                return self._of_mlflow(parent)
        known = {*reports, *(parent.info.run_name for parent in self.parents())}
        note = f" MLflow could not be asked: {self.trouble}." if self.trouble else ""
        if not known:
            raise SpecError(f"There is no run in {self._base} yet: `nanochat run demo` makes one.{note}")
        raise SpecError(f"No run is called {reference!r}{did_you_mean(reference, known)}.{note}")

    def newest(self, count: int) -> list[ComparedRun]:
        """Return the newest runs, the older ones first; raises SpecError where there are fewer."""
        reports = sorted(self.reports().values(), key=lambda path: path.stat().st_mtime)
        if len(reports) >= count:
            return [self._of_report(report) for report in reports[-count:]]
        names = list(dict.fromkeys(parent.info.run_name for parent in self.parents()))
        if len(names) < count:
            raise SpecError(
                f"{self._base} has fewer than {count} runs to compare: name folders, or run another, for example "
                "`nanochat run demo --set pretrain.model.depth=6`."
            )
        return [self.find(name) for name in reversed(names[:count])]

    def reports(self) -> dict[str, Path]:
        """Return {run name: its report.json}."""
        found = sorted(paths.reports_dir(self._base).glob("*/report.json"))
        return {path.parent.name: path for path in found if not path.parent.is_symlink()}

    def parents(self) -> list[Any]:
        """Return MLflow's runs of pipelines, the newest first; none where it does not answer."""
        if self._parents is None:
            self._parents = []
            try:
                store = self._store
                runs = store.client.search_runs([store.experiment_id], order_by=["attributes.start_time DESC"])
                self._parents = [run for run in runs if PARENT_TAG not in run.data.tags]
            except Exception as error:  # files are enough
                self.trouble = reason(error)
        return self._parents

    def _of_report(self, report: Path) -> ComparedRun:
        root, content = paths.artifacts_dir(self._base), read_json(report)
        folders = {name: root / entry["folder"] for name, entry in content["stages"].items()}
        stages = {name: stage_in(folder) for name, folder in folders.items() if (folder / "spec.json").is_file()}
        if not stages:
            raise ArtifactError(f"{report.parent} tells of stages whose folders are gone from {root}.")
        return ComparedRun(report.parent.name, stages)

    def _of_mlflow(self, parent: Any) -> ComparedRun:
        store = self._store
        children = store.client.search_runs(
            [store.experiment_id],
            f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'",
            order_by=["attributes.start_time ASC"],
        )
        stages = {}
        for child in children:
            folder = Path(child.data.tags.get("folder", ""))
            is_here = (folder / "spec.json").is_file()
            stages[child.data.tags["stage"]] = stage_in(folder) if is_here else stage_from(store, child)
        if not stages:
            raise SpecError(f"{parent.info.run_name} has no stage in MLflow to compare.")
        return ComparedRun(parent.info.run_name, stages)


def stage_in(folder: Path) -> ComparedStage:
    """Read a stage from its folder, finished or not."""
    manifest = read_manifest(folder)
    points: dict[str, list[Point]] = {}
    for point in PointReader(folder / "metrics.jsonl").new_points():
        points.setdefault(point.key, []).append(point)
    metrics = manifest.metrics if manifest else {}
    return ComparedStage(
        params=flat(read_json(folder / "spec.json")["params"]),
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, int | float)},
        points=points,
    )


def stage_from(store: Store, run: Any) -> ComparedStage:
    """Read a stage from its run in MLflow."""
    points = {}
    for key in CURVES:
        if key in run.data.metrics:
            history = store.client.get_metric_history(run.info.run_id, key)
            points[key] = [Point(key, metric.value, metric.timestamp, metric.step) for metric in history]
    metrics = {name: value for name, value in run.data.metrics.items() if not is_series(name)}
    return ComparedStage(params=run.data.params, metrics=metrics, points=points)


def is_series(name: str) -> bool:
    return name.startswith(("train/", "val/", "rl/", "progress/", "system/"))
