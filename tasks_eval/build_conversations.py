"""Stage conversations_*: a mixture of tasks, rendered to token ids and masks, as train.parquet and validation.parquet.

    python -m tasks_eval.build_conversations FOLDER/spec.json

Columns: messages (JSON), source (task, or the user's file), ids list<int32>, mask list<int8> (1 = learned), meta (JSON,
for the grader).
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.chat_format import IN_SEQUENCE, ORDER_KEY, SPECIAL_TOKENS, as_json
from nanochat_core.curation_spec import CurationSpec
from nanochat_core.data.own.conversation_files import check_unchanged
from nanochat_core.errors import SpecError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import ConversationsSpec, parse_params
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_row
from tasks_eval.curation import Curation
from tasks_eval.curation.surprise import Surprise
from tasks_eval.mixture import Pick, Render, training_picks, validation_picks
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData

ROW_GROUP = 4096  # rows; also the unit of progress
SCHEMA = pa.schema(
    [
        ("messages", pa.string()),
        ("source", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.int8())),
        ("meta", pa.string()),
    ]
)


def main() -> None:
    run_stage(build)


def build(folder: StageFolder) -> None:
    """Write both files and the result; raises DataError or SpecError where a task or its data is missing or wrong."""
    params = dict(folder.request.params)
    own_files = params.pop("own_files", {})
    if not isinstance(own_files, dict):
        raise SpecError(f"own_files: expected an object of files and their states, got {own_files!r}")
    spec = parse_params(ConversationsSpec, params)
    data = TaskData.open(folder.input("task_data"))
    tokenizer = Tokenizer.load(folder.input("tokenizer"))
    render = partial(render_row, tokenizer)
    picks = {"train": training_picks(spec, data), "validation": validation_picks(spec, data)}
    check_unchanged(own_files)  # else they would not be what this stage's fingerprint says
    with closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        progress = Progress(metrics, sum(map(len, picks.values())))
        curation = curated(folder, spec, picks, tokenizer, progress)
        progress.total -= len(picks["train"]) - len(curation.kept)
        picks["train"] = curation.kept
        details: dict[str, dict[str, Any]] = {}
        for name, part in picks.items():
            schema = in_sequence(SCHEMA) if name == "train" and spec.order == "sequence" else SCHEMA
            tokens = write_rows(folder.path / f"{name}.parquet", part, render, report=progress.rendered, schema=schema)
            details[name] = {"rows": len(part), **tokens, "tasks": rows_by_task(part)}
    numbers = {f"{name}_{key}": details[name][key] for name in picks for key in ("rows", "tokens", "learned_tokens")}
    if spec.curation != CurationSpec():
        details["train"] |= curation.result()
        numbers["left_out_rows"] = details["train"]["left_out_rows"]
    folder.write_result(numbers, [f"{name}.parquet" for name in picks], details)


class Progress:
    """Writes down how many of `total` pieces of work are done: conversations scored, rows rendered."""

    def __init__(self, metrics: MetricsWriter, total: int) -> None:
        self.total = total
        self._metrics, self._done = metrics, 0

    def rendered(self, count: int) -> None:
        self._report(count, "rendering conversations")

    def scored(self, count: int) -> None:
        self._report(count, "scoring conversations")

    def _report(self, count: int, text: str) -> None:
        self._done += count
        self._metrics.write(step=self._done, total_steps=self.total, progress=text)


def curated(
    folder: StageFolder, spec: ConversationsSpec, picks: dict[str, list[Pick]], tokenizer: Tokenizer, progress: Progress
) -> Curation:
    """Return the training rows without those that `spec.curation` leaves out; raises SpecError where none is left."""
    curation, asked, render = Curation(picks["train"]), spec.curation, partial(render_row, tokenizer)
    if asked.drop_duplicates:
        curation.drop_duplicates(picks["validation"])
    if asked.drop_worst_perplexity:
        from nanochat_core.inference.load import load_text_model  # torch takes its time

        model = load_text_model(folder.input("model"), folder.input("tokenizer"), tool=None)
        specials = frozenset(map(tokenizer.special, SPECIAL_TOKENS))
        progress.total += len(curation.distinct)
        curation.drop_worst(Surprise(model, render, specials), asked.drop_worst_perplexity, progress.scored)
    if asked.match_lengths:
        data = TaskData.open(folder.input("task_data"))
        curation.match_lengths([make_task(name, data, "test") for name in asked.match_lengths], render, spec.seed)
    if not curation.kept:
        raise SpecError("Curation leaves no conversation: ask for less of it, or give the mixture more tasks.")
    return curation


def rows_by_task(picks: Sequence[Pick]) -> dict[str, int]:
    """Return how many rows each task gave, by name."""
    names = [pick.task.name for pick in picks]
    return {name: names.count(name) for name in sorted(set(names))}


def in_sequence(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a file whose rows are learned in their order."""
    return schema.with_metadata({ORDER_KEY: IN_SEQUENCE})


def write_rows(
    path: Path, picks: Sequence[Pick], render: Render, *, report: Callable[[int], None], schema: pa.Schema = SCHEMA
) -> dict[str, int]:
    """Write the picks in their order and return {"tokens", "learned_tokens"}; `report` hears of each row group.

    Equal picks give equal bytes. About 0.2 ms a row; threads were tried and cost a fifth more.
    """
    counts = {"tokens": 0, "learned_tokens": 0}
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(picks), ROW_GROUP):
            group = picks[first : first + ROW_GROUP]
            rows = [row_of(pick, render) for pick in group]
            counts["tokens"] += sum(len(row["ids"]) for row in rows)
            counts["learned_tokens"] += sum(sum(row["mask"]) for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=ROW_GROUP)
            report(len(group))
    return counts


def row_of(pick: Pick, render: Render) -> dict[str, Any]:
    """Return one row of the file."""
    example = pick.example()
    ids, mask = render(example)
    return {
        "messages": as_json(example["messages"]),
        "source": pick.task.name,
        "ids": ids,
        "mask": mask,
        "meta": as_json(pick.task.meta(example)),
    }


if __name__ == "__main__":
    main()
