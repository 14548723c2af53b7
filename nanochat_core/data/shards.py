"""Parquet shards of plain text: one string column `text`, zstd, row groups of at most 1,024 documents. Torch-free.

`data/download.py` writes them and their `index.json`; the tokenizer stage and the token loader read them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat_core import artifacts
from nanochat_core.errors import DataError

TEXT_COLUMN = "text"
INDEX_NAME = "index.json"
SHARDS = "shards"  # the folder beside it
ROWS_PER_GROUP = 256  # of the shards written here: small enough that several ranks find work in a small corpus


@dataclass(frozen=True)
class TextShards:
    """The pretraining text of a finished download: training shards in order, and the validation shard."""

    train: list[Path]
    validation: Path

    @classmethod
    def open(cls, folder: Path) -> "TextShards":
        """Return the shards that `folder`/index.json lists; raises DataError where one of them is not there."""
        index = artifacts.read_json(folder / INDEX_NAME)
        shards = cls([folder / name for name in index["train"]], folder / index["validation"])
        missing = [path for path in (*shards.train, shards.validation) if not path.is_file()]
        if missing or not shards.train:
            what = f"{missing[0]} does not exist" if missing else f"{folder}/{INDEX_NAME} lists no training shard"
            raise DataError(f"{what}: run the download stage again.")
        return shards


def check_parquet(path: Path, column: str | None = TEXT_COLUMN) -> int:
    """Return the number of rows; raises DataError for a file that is no parquet, lacks `column` or has no rows."""
    with _opened(path) as file:
        names = file.schema_arrow.names
        if column is not None and column not in names:
            raise DataError(f"{path} has no column {column!r} (columns: {', '.join(names)}).")
        if column == TEXT_COLUMN and not _is_text(file.schema_arrow.field(column).type):
            raise DataError(
                f"{path}: the column {column!r} is {file.schema_arrow.field(column).type}, expected strings."
            )
        if file.metadata.num_rows == 0:
            raise DataError(f"{path} has no rows: remove it, or make it again.")
        return int(file.metadata.num_rows)


def count_text(path: Path) -> tuple[int, int]:
    """Return (documents, characters) of a shard, which reads all of it; raises DataError where a page is corrupt."""
    characters = 0
    for index, _rows in _group_sizes(path):
        characters += pc.sum(pc.utf8_length(_read_column(path, index))).as_py() or 0
    return check_parquet(path), characters


def row_groups(paths: Sequence[Path]) -> list[tuple[Path, int, int]]:
    """Return (path, row group, its rows) for every row group of every shard, in order."""
    return [(path, index, rows) for path in paths for index, rows in _group_sizes(path)]


def read_row_group(path: Path, index: int) -> list[str]:
    """Return the documents of one row group (an empty row is an empty document)."""
    return [text or "" for text in _read_column(path, index).to_pylist()]


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return columns of any parquet file; raises DataError where it is missing, corrupt, without one of them or empty.

    Conversations are read with it: they, unlike text, fit into memory.
    """
    for column in columns:
        check_parquet(path, column)
    with _opened(path) as file:
        try:
            return file.read(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is corrupt ({_one_line(error)}): remove it and make it again.") from None


def documents(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the documents of the shards in order, one row group in memory at a time."""
    for path, index, _rows in row_groups(paths):
        yield from read_row_group(path, index)


def write_shard(path: Path, texts: Sequence[str]) -> None:
    """Write one shard, whole or not at all. Equal texts give equal bytes (of one version of pyarrow)."""
    temporary = path.with_name(f".{path.name}.tmp")
    schema = pa.schema([(TEXT_COLUMN, pa.string())])
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for start in range(0, len(texts), ROWS_PER_GROUP):
                batch = pa.table({TEXT_COLUMN: texts[start : start + ROWS_PER_GROUP]}, schema=schema)
                writer.write_table(batch, row_group_size=ROWS_PER_GROUP)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run the download stage again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is no readable parquet file ({_one_line(error)}): remove it and fetch it again."
        ) from None


def _group_sizes(path: Path) -> list[tuple[int, int]]:
    with _opened(path) as file:
        return [(index, file.metadata.row_group(index).num_rows) for index in range(file.num_row_groups)]


def _read_column(path: Path, index: int) -> pa.ChunkedArray:
    with _opened(path) as file:
        try:
            return file.read_row_group(index, columns=[TEXT_COLUMN], use_threads=False).column(0)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} is corrupt in row group {index} ({_one_line(error)}): remove it and fetch it again."
            ) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
