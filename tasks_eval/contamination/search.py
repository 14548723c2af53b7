"""Stage contamination: which questions of the evaluation stand in the training text, word for word.

    python -m tasks_eval.contamination.search FOLDER/spec.json

In: params ContaminationSpec; the inputs text and task_data. Out: overlaps.parquet, a row for each contaminated example,
and in the result, for each task, their share and what the first of them have in common with the text. A question told
in other words is not found: this counts copies, not knowledge.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.data.shards import TextShards, read_row_group, row_groups
from nanochat_core.errors import SpecError
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import ContaminationSpec, parse_params
from tasks_eval.contamination.ngrams import Places, blocks, words_of
from tasks_eval.contamination.overlap_index import NOT_FOUND, OverlapIndex, TaskRuns, runs_of_task
from tasks_eval.contamination.texts import QuestionAnswer, texts_of_core, texts_of_task
from tasks_eval.core.bundle import read_bundle
from tasks_eval.core.score import choose_tasks
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData

SHOWN_EXAMPLES = 10  # of each task, in the result
MAX_THREADS = 8
PROGRESS_LINES = 100
OUTPUT = "overlaps.parquet"
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("index", pa.int64()),
        ("part", pa.string()),
        ("share", pa.float64()),
        ("overlap", pa.string()),
        ("shard", pa.string()),
    ]
)


@dataclass(frozen=True)
class Overlap:
    """A contaminated example. `index` is its number in the task, as in the evaluation's records.

    part: where the overlap lies, in the question, or else only in the answer (or between the two). share: of the
    example's runs of words, those that were found. overlap: the longest piece that is in both. shard: where it was
    found first.
    """

    task: str
    index: int
    part: str
    share: float
    overlap: str
    shard: str


def main() -> None:
    run_stage(search)


def search(folder: StageFolder) -> None:
    """Write overlaps.parquet and the result; raises NanochatError where a task or its data is missing."""
    spec = parse_params(ContaminationSpec, folder.request.params)
    data, text = TaskData.open(folder.input("task_data")), TextShards.open(folder.input("text"))
    shards = spread(text.train, spec.shards)
    with closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        metrics.write(step=0, total_steps=len(shards), progress="reading the questions")
        index = OverlapIndex(list(evaluated(spec, data)), spec.ngram)
        threads = spec.num_workers or min(MAX_THREADS, len(os.sched_getaffinity(0)))
        characters = search_shards(index, shards, threads=threads, report=_report_to(metrics))
    overlaps = {task.name: list(overlaps_of(index, number, shards)) for number, task in enumerate(index.tasks)}
    rows = [asdict(overlap) for found in overlaps.values() for overlap in found]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder.path / OUTPUT, compression="zstd")
    tasks = {task.name: summary(task, overlaps[task.name]) for task in index.tasks}
    details = {
        "tasks": tasks,
        "ngram": spec.ngram,
        "shards": [path.name for path in shards],
        "shards_there": len(text.train),
        "characters": characters,
    }
    counts = {name: sum(row[name] for row in tasks.values()) for name in ("checked", "contaminated")}
    shares = {f"share/{name}": row["share"] for name, row in tasks.items()}
    folder.write_result({**counts, **shares, "shards": len(shards), "characters": characters}, [OUTPUT], details)


def evaluated(spec: ContaminationSpec, data: TaskData) -> Iterator[TaskRuns]:
    """Yield what chat tasks and CORE are looked for by; raises SpecError where there is no task to look for."""
    root = None if spec.core_tasks == () else data.core_root()
    core = choose_tasks(read_bundle(root), spec.core_tasks) if root else []
    if not (spec.chat_tasks or core):
        raise SpecError(
            "There is no task to look for: what is evaluated is made by rule. Name tasks in contamination.chat_tasks."
        )
    for name in spec.chat_tasks or ():
        yield runs_of_task(name, list(texts_of_task(make_task(name, data, "test"))), spec.ngram)
    of_file: dict[Path, TaskRuns] = {}  # two tasks may ask the same items
    for task in core:
        if task.file not in of_file:
            of_file[task.file] = runs_of_task(task.label, list(texts_of_core(task, task.items())), spec.ngram)
        yield replace(of_file[task.file], name=task.label)


def spread(shards: Sequence[Path], count: int | None) -> list[Path]:
    """Return `count` of the shards, evenly spread; None: all.

    >>> [path.name for path in spread([Path(name) for name in "abcdefg"], 3)]
    ['a', 'd', 'g']
    """
    if count is None or count >= len(shards):
        return list(shards)
    return [shards[round(place)] for place in np.linspace(0, len(shards) - 1, count)]


def search_shards(
    index: OverlapIndex, shards: Sequence[Path], *, threads: int, report: Callable[[int, int], None]
) -> int:
    """Look for the index's runs in every document, and mark them; return the characters read.

    The result does not depend on the number of threads: row groups are marked in their order.
    """
    groups = row_groups(shards)
    numbers = {path: number for number, path in enumerate(shards)}

    def work(group: tuple[Path, int, int]) -> tuple[int, Places]:
        texts = read_row_group(group[0], group[1])
        found = [index.search(block) for block in blocks(texts)]
        return sum(map(len, texts)), np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    characters = 0
    with ThreadPoolExecutor(threads) as pool:
        for done, (group, (count, found)) in enumerate(zip(groups, pool.map(work, groups), strict=True), start=1):
            characters += count
            index.mark(found, numbers[group[0]])
            report(done, len(groups))
    return characters


def _report_to(metrics: MetricsWriter) -> Callable[[int, int], None]:
    """Return what writes progress down, in about PROGRESS_LINES lines."""

    def report(done: int, total: int) -> None:
        if done == total or done % -(-total // PROGRESS_LINES) == 0:
            metrics.write(step=done, total_steps=total, progress="searching the training text")

    return report


def summary(task: TaskRuns, overlaps: Sequence[Overlap]) -> dict[str, Any]:
    """Return a task's entry in the result: `n` examples, of which `checked` are long enough to be looked for."""
    return {
        "n": len(task.texts),
        "checked": task.checked,
        "contaminated": len(overlaps),
        "share": len(overlaps) / len(task.texts) if task.texts else 0.0,
        "in_question": sum(overlap.part == "question" for overlap in overlaps),
        "examples": [asdict(overlap) for overlap in overlaps[:SHOWN_EXAMPLES]],
    }


def overlaps_of(index: OverlapIndex, number: int, shards: Sequence[Path]) -> Iterator[Overlap]:
    """Yield the contaminated examples of a task, in order of their index."""
    task, met = index.tasks[number], index.shards_of(number)
    runs, is_found = task.runs, met != NOT_FOUND
    for example in np.unique(runs.examples[is_found]).tolist():
        own = np.flatnonzero(runs.examples == example)
        found = own[is_found[own]]
        yield Overlap(
            task=task.name,
            index=example,
            part="question" if runs.in_question[found].any() else "answer",
            share=round(len(found) / len(own), 4),
            overlap=longest_overlap(task.texts[example], set(runs.hashes[found].tolist()), index.length),
            shard=shards[met[found].min()].name,
        )


def longest_overlap(text: QuestionAnswer, found: set[int], length: int) -> str:
    """Return the longest piece of question and answer whose runs of words were all found; of a short one, all of it."""
    joined = " ".join(text).encode(errors="surrogatepass")
    words = words_of(joined)
    best, start = (0, 0), None
    for place, run in enumerate([*words.runs(length).tolist(), None]):
        if run in found:
            start = place if start is None else start
            best = max(best, (place - start + length, -start))
        else:
            start = None
    if not best[0]:
        return text[0].strip()
    first, last = -best[1], -best[1] + best[0] - 1
    return joined[words.starts[first] : words.ends[last]].decode(errors="replace")


if __name__ == "__main__":
    main()
