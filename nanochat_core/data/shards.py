"""Parquet shards of plain text: one string column `text`, zstd, row groups of at most 1,024 documents. Torch-free.

`data/download.py` writes them and their `index.json`; the tokenizer stage and the token loader read them. Pages that
carry a checksum are compared with it at every reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


NEAR_EMPTY_CHARACTERS = 8  # a document with fewer, blanks at both ends left out, is counted as empty


@dataclass(frozen=True)
class TextCounts:
    """What a shard holds. `empty_documents` are those that are null, blank or shorter than NEAR_EMPTY_CHARACTERS."""

    documents: int
    characters: int
    empty_documents: int


@dataclass(frozen=True)
class TextShards:
    """The pretraining text of a finished download: training shards in order, and the validation shard.

    `sha256` is that of every shard, by path.
    """

    train: list[Path]
    validation: Path
    sha256: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "TextShards":
        """Return the shards that `folder`/index.json lists.

        Raises DataError where one of them is not there, or where the validation shard is among the training shards.
        """
        index_path = folder / INDEX_NAME
        index = artifacts.read_json(index_path)
        try:
            train, validation = [folder / name for name in index["train"]], folder / index["validation"]
            sha256 = {path: index["sha256"][path.relative_to(folder).as_posix()] for path in (*train, validation)}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{index_path} does not list every shard ({error!r}): run the download stage again."
            ) from None
        missing = [path for path in (*train, validation) if not path.is_file()]
        if missing or not train:
            what = f"{missing[0]} does not exist" if missing else f"{index_path} lists no training shard"
            raise DataError(f"{what}: run the download stage again.")
        _refuse_overlap(train, validation, sha256, index_path)
        return cls(train, validation, sha256)


def _refuse_overlap(train: list[Path], validation: Path, sha256: dict[Path, str], index_path: Path) -> None:
    """Raise DataError where the validation shard would be trained on, under its own name or another."""
    for path in train:
        if path.resolve() == validation.resolve() or sha256[path] == sha256[validation]:
            raise DataError(
                f"{index_path}: the validation shard {validation.name} is among the training shards (as {path.name}), "
                "so validation would measure memory: run the download stage again, or choose fewer train_shards."
            )


def check_parquet(path: Path, column: str | None = TEXT_COLUMN) -> int:
    """Return the number of rows; raises DataError for a file that is no parquet, lacks `column` or has no rows."""
    with _opened(path) as file:
        if column is not None:
            _check_column(path, file, column)
        if file.metadata.num_rows == 0:
            raise DataError(f"{path} has no rows: remove it, or make it again.")
        return int(file.metadata.num_rows)


def _check_column(path: Path, file: pq.ParquetFile, column: str) -> None:
    names = file.schema_arrow.names
    if column not in names:
        raise DataError(f"{path} has no column {column!r} (columns: {', '.join(names)}).")
    kind = file.schema_arrow.field(column).type
    if column == TEXT_COLUMN and not _is_text(kind):
        raise DataError(f"{path}: the column {column!r} is {kind}, expected strings.")


def count_text(path: Path) -> TextCounts:
    """Count a shard's text, which reads every page of it, one row group in memory at a time.

    Raises DataError where a page is corrupt, a text is not UTF-8, or all documents are empty.
    """
    rows, characters, near_empty, blank = check_parquet(path), 0, 0, 0
    for index, _rows in _group_sizes(path):
        column = _read_column(path, index)
        trimmed = pc.fill_null(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
        characters += pc.sum(pc.utf8_length(column)).as_py() or 0
        near_empty += pc.sum(pc.less(trimmed, NEAR_EMPTY_CHARACTERS)).as_py() or 0
        blank += pc.sum(pc.equal(trimmed, 0)).as_py() or 0
    if blank == rows:
        raise DataError(f"{path}: all of its {rows:,} documents are empty: remove it, or make it again.")
    return TextCounts(rows, characters, near_empty)


def row_groups(paths: Sequence[Path]) -> list[tuple[Path, int, int]]:
    """Return (path, row group, its rows) for every row group of every shard, in order."""
    return [(path, index, rows) for path in paths for index, rows in _group_sizes(path)]


def read_row_group(path: Path, index: int, documents: Sequence[int] | None = None) -> list[str]:
    """Return the documents of one row group, or some of them by number (an empty row is an empty document)."""
    column = _read_column(path, index)
    if documents is not None:
        column = column.take(pa.array(documents, pa.int64()))
    return [text or "" for text in column.to_pylist()]


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
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            for start in range(0, len(texts), ROWS_PER_GROUP):
                batch = pa.table({TEXT_COLUMN: texts[start : start + ROWS_PER_GROUP]}, schema=schema)
                writer.write_table(batch, row_group_size=ROWS_PER_GROUP)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run the download stage again.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no readable parquet file ({_one_line(error)}): remove it and fetch it again."
        ) from None


def _group_sizes(path: Path) -> list[tuple[int, int]]:
    with _opened(path) as file:
        return [(index, file.metadata.row_group(index).num_rows) for index in range(file.num_row_groups)]


def _read_column(path: Path, index: int) -> pa.ChunkedArray:
    with _opened(path) as file:
        _check_column(path, file, TEXT_COLUMN)
        try:
            column = file.read_row_group(index, columns=[TEXT_COLUMN], use_threads=False).column(0)
            column.validate(full=True)  # the reader itself takes bytes that are not UTF-8
            if len(column) != (rows := file.metadata.row_group(index).num_rows):  # and pages that say they have fewer
                raise OSError(f"{len(column)} of {rows} rows")
            return column
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} is corrupt in row group {index} ({_one_line(error)}): remove it and fetch it again."
            ) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
