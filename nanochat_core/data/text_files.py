"""A user's own text: the documents in a folder of parquet, jsonl and txt files. Torch-free.

- .parquet: the column `text`, a document a row.
- .jsonl: an object a line with the field `text`.
- .txt and .md: one document a file, cut between paragraphs where it is longer than 10,000 characters.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from nanochat_core.data.shards import TEXT_COLUMN, check_parquet, documents
from nanochat_core.errors import DataError

MAX_PLAIN_CHARACTERS = 10_000


def find_text_files(folder: Path) -> list[Path]:
    """Return the readable files below `folder`, sorted, without hidden ones; raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"The data folder {folder} does not exist: set download.path to a folder with text.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in READERS
        and path.is_file()
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    if not found:
        raise DataError(
            f"The data folder {folder} has no {', '.join(READERS)} file: put text there, or set download.path."
        )
    return found


def read_texts(path: Path) -> Iterator[str]:
    """Yield the documents of one file, without blank ones; raises DataError with file and line for a malformed one."""
    return (text for text in READERS[path.suffix](path) if text.strip())


def _read_parquet(path: Path) -> Iterator[str]:
    check_parquet(path)
    yield from documents([path])


def _read_jsonl(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _text_of(line, f"{path}, line {number}")


def _text_of(line: bytes, place: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:  # bad UTF-8 too
        raise DataError(f"{place} is no JSON ({error}): expected an object with the field {TEXT_COLUMN!r}.") from None
    if not isinstance(value, dict) or not isinstance(value.get(TEXT_COLUMN), str):
        raise DataError(f"{place} has no text in the field {TEXT_COLUMN!r}: expected {{{json.dumps(TEXT_COLUMN)}: …}}.")
    text: str = value[TEXT_COLUMN]
    return text.encode(errors="replace").decode()  # JSON can spell half a character (a lone surrogate)


def _read_plain(path: Path) -> Iterator[str]:
    """Yield pieces of whole paragraphs (blank lines between them), as long as fits."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line} is not UTF-8 ({error.reason}): convert the file.") from None
    piece = ""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        if piece and len(piece) + len(paragraph) + 2 > MAX_PLAIN_CHARACTERS:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    yield piece


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".txt": _read_plain,
    ".md": _read_plain,
}
