"""Reads a file of conversations in any of the known formats, each with its place, and says what is wrong where.

.jsonl: a conversation a line. .json: a list of them. .parquet: one a row. .txt: Harmony-rendered text. All but parquet
may be compressed (.gz, .zst). Torch-free.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nanochat_core.chat_format import SHOWN_PROBLEMS, parsed
from nanochat_core.data.own.conversation_formats import OURS, imported
from nanochat_core.data.own.harmony import conversations_in, is_harmony
from nanochat_core.data.own.text_files import COMPRESSIONS, UNREADABLE, opened
from nanochat_core.errors import DataError

KINDS = (".jsonl", ".json", ".parquet", ".txt")
ENOUGH = 10_000  # bad lines, after which reading stops: a file of a wrong kind would fill the memory with them

Places = Iterator[tuple[str, Any]]  # ":3" or ", row 3", and the JSON value there, or the DataError of what is


@dataclass
class ReadConversations:
    """What was found in a file, in its order."""

    conversations: list[dict[str, Any]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)

    @property
    def is_ours(self) -> bool:
        """Whether nothing had to be changed."""
        return set(self.formats) == {OURS}


def kind_of(path: Path) -> str | None:
    """Return the suffix that says how a file is read; None for other files.

    >>> [kind_of(Path(name)) for name in ("a.jsonl", "a.json.gz", "a.csv")]
    ['.jsonl', '.json', None]
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes = [suffix for suffix in suffixes[:-1] if suffix != ".parquet"]
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def read_conversation_file(path: Path) -> ReadConversations:
    """Return the conversations of a file, in our form.

    Raises DataError that names the file, and the place of everything that is wrong, the first few with their reasons.
    """
    found, problems, bad = ReadConversations(), [], 0
    for place, value in values_of(path):
        try:
            name, conversation = imported(_raised(value))
        except DataError as error:
            bad += 1
            problems += [f"{path}{place}: {error}"] if bad <= SHOWN_PROBLEMS else []
            if bad >= ENOUGH:
                break
        else:
            found.conversations.append(conversation)
            found.formats[name] += 1
    if bad:
        more = bad - len(problems)
        tail = f"; and {more:,} more bad lines, of {len(found.conversations) + bad:,}" if more else ""
        raise DataError("; ".join(problems) + tail)
    if not found.conversations:
        raise DataError(f"{path} holds no conversations. Write one JSON object a line.")
    return found


def _raised(value: Any) -> Any:
    if isinstance(value, DataError):
        raise value
    return value


def values_of(path: Path) -> Places:
    """Yield what stands in a file, and where. Raises DataError where the file cannot be read at all."""
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path} is not of a kind that holds conversations: {', '.join(KINDS)} (also .gz, .zst).")
    try:
        yield from READERS[kind](path)
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror or error}. Expected a file of conversations: {', '.join(KINDS)}."
        ) from error
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read to its end ({' '.join(str(error).split())[:160]}).") from error


def _read_jsonl(path: Path) -> Places:
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f":{number}", _json_of(line)


def _read_json(path: Path) -> Places:
    with opened(path) as file:
        values = _json_of(file.read().removeprefix(b"\xef\xbb\xbf"))
    if isinstance(values, DataError):
        yield "", values
    elif not isinstance(values, list):
        yield "", DataError("expected a list of conversations in a .json file; one a line is a .jsonl file")
    else:
        yield from ((f", item {number}", value) for number, value in enumerate(values, start=1))


def _json_of(data: bytes) -> Any:
    """Return the value of one piece of JSON, or the DataError that says what is wrong with it."""
    try:
        return parsed(data)
    except DataError as error:
        return error


def _read_parquet(path: Path) -> Places:
    number = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f", row {number}", _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Return a value as JSON would have it: in a column, what one row lacks is null in it."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _read_harmony(path: Path) -> Places:
    with opened(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield f":{line}", DataError("not UTF-8")
        return
    if not is_harmony(text):
        yield "", DataError("expected Harmony-rendered text (<|start|>user<|message|>…) in a .txt file")
        return
    for line, conversation in conversations_in(text):
        yield f":{line}", conversation if is_harmony(conversation) else DataError("text outside a conversation")


READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".txt": _read_harmony}
