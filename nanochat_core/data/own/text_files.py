"""A user's own text: the documents in a folder of parquet, JSON-lines and plain text files. Torch-free.

- .parquet: a column, a document a row.
- .jsonl: an object a line; a field of it is the document.
- .txt and .md: one document a file, cut between paragraphs where it is longer than 10,000 characters.

All but parquet may be compressed (.gz, .zst). A column or field is chosen by name, `text` unless said. Files are read a
row group or a line at a time; plain text as a whole.
"""

import difflib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.data.own.bad_lines import BadLines
from nanochat_core.data.shards import TEXT_COLUMN
from nanochat_core.errors import DataError

MAX_PLAIN_CHARACTERS = 10_000
MAX_NAMES = 8  # of columns, in a message
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError)  # ValueError: names in a corrupt footer

Documents = Iterator[tuple[str, str]]  # where in its file a document stands ("line 3"), and its text


def find_text_files(place: Path) -> list[Path]:
    """Return the readable files below a folder, sorted, without hidden ones; or `place` itself, if it is such a file.

    Raises DataError where there is none.
    """
    kinds = f"{', '.join(READERS)} (all but .parquet also as {' or '.join(COMPRESSIONS)})"
    if place.is_file():
        if kind_of(place):
            return [place]
        raise DataError(f"The file {place} is not of a kind that is read: {kinds}.")
    if not place.is_dir():
        raise DataError(
            f"The data folder {place.absolute()} does not exist: set download.path to a folder with text, or name "
            "another place."
        )
    found = [path for path in _files_below(place) if kind_of(path)]
    if not found:
        raise DataError(f"The data folder {place} has no file of these kinds: {kinds}. Put text there.")
    return found


def other_files(place: Path) -> list[Path]:
    """Return the files below a folder that are left alone because of their names, hidden ones not among them."""
    return [path for path in _files_below(place) if not kind_of(path)] if place.is_dir() else []


def _files_below(place: Path) -> list[Path]:
    """Return the files below a folder, sorted, without what is hidden. Folders that are linked count, each once."""
    found, seen = [], set()
    for folder, subfolders, names in os.walk(place, onerror=_refuse, followlinks=True):
        is_new = os.path.realpath(folder) not in seen
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if is_new and not name.startswith("."))
        found += [Path(folder, name) for name in names if is_new and not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"The data folder {error.filename} cannot be read ({error.strerror}).")


def kind_of(path: Path) -> str | None:
    """Return the suffix that says how a file is read, without that of its compression; None for other files.

    >>> [kind_of(Path(name)) for name in ("a/b.jsonl.zst", "b.parquet", "b.parquet.gz", "b.csv")]
    ['.jsonl', '.parquet', None, None]
    """
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = Path(path.stem).suffix.lower()
        return suffix if suffix in READERS and suffix != ".parquet" else None
    return suffix if suffix in READERS else None


def read_texts(path: Path, bad: BadLines, *, column: str = TEXT_COLUMN) -> Documents:
    """Yield the documents of one file, empty ones included; what cannot be read is added to `bad` and left out."""
    kind = kind_of(path)
    assert kind is not None, f"{path} is no text file"
    return READERS[kind](path, bad, column)


def _read_parquet(path: Path, bad: BadLines, column: str) -> Documents:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        problem = _column_problem(file.schema_arrow, column)
    except UNREADABLE as error:
        return bad.add(path, "the file", f"no readable parquet ({_one_line(error)})")
    with file:
        if problem:
            return bad.add(path, "the file", problem, lines=file.metadata.num_rows)
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                values = _bytes_of(file.read_row_group(group, columns=[column], use_threads=False).column(0))
            except UNREADABLE as error:
                bad.add(path, f"row group {group}", f"corrupt ({_one_line(error)})", lines=rows)
            else:
                if len(values) != rows:
                    bad.add(
                        path, f"row group {group}", f"corrupt ({rows} rows expected, {len(values)} found)", lines=rows
                    )
                yield from _decoded(values, path, bad, first)
            first += rows
        if first != file.metadata.num_rows:
            bad.add(path, "the file", f"corrupt ({file.metadata.num_rows} rows expected, {first} found)")


def _column_problem(schema: pa.Schema, column: str) -> str | None:
    """Return why the documents cannot be in this column, if so."""
    if schema.names.count(column) > 1:
        return f"more than one column {column!r} (columns: {', '.join(schema.names)})"
    if column not in schema.names:
        return _missing("column", column, schema.names)
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind not in (pa.string(), pa.large_string(), pa.string_view()):
        return f"the column {column!r} is {kind}, expected strings (columns: {', '.join(schema.names)})"
    return None


def _missing(what: str, column: str, names: list[str]) -> str:
    close = difflib.get_close_matches(column, names, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"no {what} {column!r}{hint} ({what}s: {', '.join(names[:MAX_NAMES])})"


def _bytes_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return strings as the bytes they are stored as: those of a damaged one are no UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_binary())


def _decoded(values: pa.ChunkedArray, path: Path, bad: BadLines, first: int) -> Documents:
    for row, value in enumerate(values.to_pylist(), start=first):
        try:
            yield f"row {row}", (value or b"").decode()
        except UnicodeDecodeError as error:
            bad.add(path, f"row {row}", f"not UTF-8 ({error.reason})")


def _read_jsonl(path: Path, bad: BadLines, column: str) -> Documents:
    number = 0
    try:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    text = _text_of(line, column)
                    if isinstance(text, str):
                        yield f"line {number}", text
                    else:
                        bad.add(path, f"line {number}", text.reason)
    except UNREADABLE as error:
        bad.add(path, f"after line {number}", f"the file ends badly ({_one_line(error)})")


class NoText:
    """Why a line holds no document."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _text_of(line: bytes, column: str) -> str | NoText:
    """Return the document of a line of JSON; a null is an empty one."""
    try:
        value = json.loads(line)
    except ValueError as error:  # bad UTF-8 too
        return NoText(f"no JSON ({_one_line(error)})")
    except RecursionError:
        return NoText("JSON that is nested too deeply")
    if not isinstance(value, dict):
        return NoText(f"no object: expected {{{json.dumps(column)}: …}}")
    if column not in value:
        names = [str(name) for name in value]
        return NoText(_missing("field", column, names))
    text = value[column]
    if text is not None and not isinstance(text, str):
        return NoText(f"the field {column!r} is of type {type(text).__name__}, expected a string")
    return (text or "").encode(errors="replace").decode()  # JSON can spell half a character (a lone surrogate)


def _read_plain(path: Path, bad: BadLines, column: str) -> Documents:
    """Yield pieces of whole paragraphs (blank lines between them), as long as fits."""
    try:
        with opened(path) as file:
            data = file.read()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return bad.add(path, f"line {line}", f"not UTF-8 ({error.reason}): the whole file is left out")
    except UNREADABLE as error:
        return bad.add(path, "the file", f"cannot be read ({_one_line(error)})")
    piece, count = "", 1
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        if piece and len(piece) + len(paragraph) + 2 > MAX_PLAIN_CHARACTERS:
            yield f"piece {count}", piece
            piece, count = "", count + 1
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    yield f"piece {count}", piece


def opened(path: Path) -> BinaryIO:
    """Return the decompressed bytes of a file as a stream."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return open(path, "rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


READERS: dict[str, Callable[[Path, BadLines, str], Documents]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".txt": _read_plain,
    ".md": _read_plain,
}
