"""The tracking store: a database in the base folder, or whatever MLFLOW_TRACKING_URI names. Made to be asked again:
every operation here may be repeated, however the one before it ended."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from flows.tracking_points import Point
from flows.tracking_record import RunRecord, default_store
from nanochat_core import paths

EXPERIMENT = "nanochat"
KEY_TAG = "nanochat.key"
PARENT_TAG = "mlflow.parentRunId"
PARAMS_IN_ONE_REQUEST = 100
SETTINGS = {  # for what the user has not set
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the writer tries again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines at the end of each run, in the middle of our bars
}
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


class Store:
    """A tracking store and the experiment in it; opened at the first use."""

    def __init__(self, base: Path, uri: str | None = None) -> None:
        self._base = base
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_store(base)
        self.address = public_address(self.uri)
        self._client: Any = None
        self._experiment_id = ""

    @property
    def client(self) -> Any:
        """MLflow's client. Importing MLflow takes seconds, and so does the creation of a database."""
        if self._client is None:
            client = self._new_client()
            self._experiment_id = self._find_experiment(client)
            self._client = client
        return self._client

    @property
    def experiment_id(self) -> str:
        self.client  # noqa: B018 - opens the store
        return self._experiment_id

    def _new_client(self) -> Any:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import mlflow

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        if self.uri == default_store(self._base):
            paths.mlflow_dir(self._base).mkdir(parents=True, exist_ok=True)
        return mlflow.MlflowClient(self.uri)

    def _find_experiment(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return str(experiment.experiment_id)
        is_own = self.uri == default_store(self._base)
        files = (paths.mlflow_dir(self._base) / "artifacts").as_uri() if is_own else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=files))

    def find(self, key: str) -> list[str]:
        """Return the ids of the runs with our key, the oldest first: none, one, or more after a lost answer."""
        runs = self.client.search_runs(
            [self.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", order_by=["attributes.start_time ASC"]
        )
        return [str(run.info.run_id) for run in runs]

    def has(self, run_id: str) -> bool:
        """Tell whether the store has this run."""
        try:
            self.client.get_run(run_id)
        except Exception as error:
            if is_refusal(error):
                return False
            raise
        return True

    def create(self, record: RunRecord, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(
            self.experiment_id,
            start_time=int(1000 * record.started),
            run_name=record.name,
            tags={KEY_TAG: record.key, **tags},
        )
        return str(run.info.run_id)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(entities), PARAMS_IN_ONE_REQUEST):
            self.client.log_batch(run_id, params=entities[start : start + PARAMS_IN_ONE_REQUEST])

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Write points in one transaction. Not to be repeated blindly: see `steps`."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def steps(self, run_id: str, key: str) -> set[int]:
        """Return the steps that the run's curve has."""
        return {int(metric.step) for metric in self.client.get_metric_history(run_id, key)}

    def log_data_sets(self, run_id: str, data_sets: Mapping[str, tuple[str, Path]]) -> None:
        """Name the run's inputs: {name: (digest, folder)}."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self.client.log_inputs(
            run_id,
            datasets=[
                DatasetInput(
                    Dataset(
                        name=name, digest=digest[:36], source_type="local", source=f'{{"uri": "{folder.as_uri()}"}}'
                    ),
                    tags=[InputTag("mlflow.data.context", "training")],
                )
                for name, (digest, folder) in data_sets.items()
            ],
        )


def is_refusal(error: Exception) -> bool:
    """Tell whether the store has understood and said no: asking again would not help."""
    return getattr(error, "error_code", None) in REFUSALS


def public_address(uri: str) -> str:
    """Return the address without user and password.

    >>> public_address("http://me:secret@host:5000/x"), public_address("sqlite:////tmp/mlflow.db")
    ('http://host:5000/x', 'sqlite:////tmp/mlflow.db')
    """
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def reason(error: Exception) -> str:
    """Return the first line of an error, without user and password."""
    text = next(iter(str(error).splitlines()), "")
    return re.sub(r"//[^/@\s]+@", "//", f"{type(error).__name__}: {text}")[:300]
