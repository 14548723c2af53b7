"""Compares a stage's metrics.jsonl with what MLflow has of it: each point once, none twice."""

from collections import Counter
from pathlib import Path

from mlflow import MlflowClient

from nanochat_core.artifacts import read_json
from nanochat_core.metrics import read_metrics

LOSS = "train/loss"


def missing_or_double(uri: str, folder: Path) -> list[str]:
    """Return what differs between the losses in `folder` and those of its runs in MLflow, one line each."""
    client = MlflowClient(uri)
    fingerprint = read_json(folder / "spec.json")["fingerprint"]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.fingerprint = '{fingerprint}' and tags.cached = 'false'")
    points = Counter(
        (point.step, round(point.value, 6))
        for run in runs[:1]
        for point in client.get_metric_history(run.info.run_id, LOSS)
    )
    wanted = {(line["step"], round(line[LOSS], 6)) for line in read_metrics(folder / "metrics.jsonl") if LOSS in line}
    problems = [f"step {step} is missing" for step, value in sorted(wanted - points.keys())]
    problems += [f"step {step} is there {count} times" for (step, _), count in sorted(points.items()) if count > 1]
    return problems + [f"step {step} has another value" for step, _ in sorted(points.keys() - wanted)]
