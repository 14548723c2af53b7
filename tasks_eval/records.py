"""The record of each answer, and where it is kept: a log while a task is measured, a parquet file when it is done.

    log/TASK-SETTINGS.RANK.jsonl     one line a question, with its checksum; what a killed evaluation goes on from
    records/TASK.parquet             all answers in the order of the questions, `SCHEMA`

Equal answers give equal bytes.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("sample", pa.int32()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("prompt_sha256", pa.string()),
        ("options", pa.list_(pa.string())),
        ("logprobs", pa.list_(pa.float64())),
        ("num_tokens", pa.list_(pa.int32())),
        ("completion", pa.string()),
        ("answer", pa.string()),
        ("expected", pa.string()),
        ("correct", pa.bool_()),
        ("note", pa.string()),
    ]
)
ROW_GROUP = 1024  # rows


@dataclass(frozen=True)
class Record:
    """One answer to one question.

    index: the question's number in the task. sample: which of its answers. group: the part of the task that it belongs
    to (MMLU's subject), or nothing. prompt: what was asked, as text (CORE) or the messages as JSON. options: what could
    be chosen; `logprobs` their log-likelihoods in nats (CORE: summed over `num_tokens` tokens; letters: among
    themselves). completion: what the model wrote. answer: what was read out of that, for options their number; None:
    nothing. note: why it failed, where that is known.
    """

    index: int
    task: str
    prompt: str
    prompt_sha256: str
    expected: str
    correct: bool
    answer: str | None
    sample: int = 0
    group: str = ""
    options: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    num_tokens: tuple[int, ...] = ()
    completion: str = ""
    note: str = ""


class RecordLog:
    """The records of one task while it is measured, of one rank: appended question by question, never rewritten."""

    def __init__(self, folder: Path, task: str, rank: int) -> None:
        self._path = folder / f"{task}.{rank}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):  # killed in the middle of a line
            with open(self._path, "ab") as file:
                file.write(b"\n")

    def append(self, questions: Iterable[Sequence[Record]]) -> None:
        """Write the records of some questions, those of each together: all of a question's are there or none."""
        lines = [checked_line([asdict(record) for record in records]) for records in questions]
        with open(self._path, "ab") as file:
            file.write(b"".join(lines))


def checked_line(records: object) -> bytes:
    """Return one line of a log: the checksum of what follows, and that."""
    text = json.dumps(records, ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_logs(folder: Path, task: str, *, rank: int, size: int) -> dict[int, list[Record]]:
    """Return the finished questions in the logs that are this rank's to read: every `size`-th of those there.

    A line that is damaged counts as not there: its question is asked again.
    """
    found: dict[int, list[Record]] = {}
    for path in folder.glob(f"{task}.*.jsonl"):
        number = path.name.removeprefix(f"{task}.").removesuffix(".jsonl")
        if number.isdigit() and int(number) % size == rank:
            for records in filter(None, map(_checked, path.read_bytes().split(b"\n"))):
                found[records[0].index] = records
    return found


def _checked(line: bytes) -> list[Record]:
    """Return the records on a line of a log; none where it is damaged."""
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return []
        return [record_of(row) for row in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        return []


def record_of(row: dict[str, object]) -> Record:
    """Return the record of a row of JSON or parquet; raises KeyError for a missing field."""
    values = {field.name: row[field.name] for field in fields(Record)}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Record(**(values | lists))  # type: ignore[arg-type]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a task's parquet file, by rename."""
    temporary = path.with_name(f".{path.name}")
    table = pa.Table.from_pylist([asdict(record) for record in records], SCHEMA)
    pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)
    temporary.replace(path)


def read_records(path: Path) -> list[Record]:
    """Return the records of a task's parquet file."""
    return [record_of(row) for row in pq.read_table(path).to_pylist()]
