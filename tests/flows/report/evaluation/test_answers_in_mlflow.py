"""Each answer of an evaluation is in MLflow: its run has the parquet files, in their folder."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows import tracking_writer
from tasks_eval.records import SCHEMA, write_records
from tests.flows import tracked
from tests.flows.report.evaluation.made_up import gsm8k, mmlu


def test_an_evaluations_run_has_the_answers(
    base: Path, mlflow_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.setattr(tracking_writer, "PERIOD_SECONDS", 0.1)
    tracker = tracked.tracker(base, "answers", owner="answers")
    tracker.start()
    folder = tracked.stage_folder(base, "evaluate_sft")
    track = tracked.begin(tracker, folder)
    (folder / "records").mkdir()
    for task, records in {"MMLU": mmlu("sft"), "GSM8K": gsm8k("sft")}.items():
        write_records(folder / "records" / f"{task}.parquet", records)
    track.finish(tracked.finish(folder, chatcore=0.5))
    tracker.finish("FINISHED")
    tracked.wait_until(lambda: not list((base / "mlflow_pending").glob("*.json")))
    client, (_, child) = tracked.runs(mlflow_store, "answers")
    files = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert {"result.json", "records"} <= files
    kept = {file.path for file in client.list_artifacts(child.info.run_id, "records")}
    assert kept == {"records/MMLU.parquet", "records/GSM8K.parquet"}
    table = pq.read_table(client.download_artifacts(child.info.run_id, "records/GSM8K.parquet", str(tmp_path)))
    assert (table.num_rows, table.schema) == (40, SCHEMA)
