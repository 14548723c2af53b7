"""Where text can be looked at: a finished download, a folder or a file of the user's own. Torch-free."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nanochat_core.data.own.bad_lines import BadLines
from nanochat_core.data.own.text_files import find_text_files, other_files, read_texts
from nanochat_core.data.shards import INDEX_NAME, TEXT_COLUMN, TextShards
from nanochat_core.errors import DataError


class FoundText(NamedTuple):
    """One document, and where it stands."""

    file: Path
    place: str  # "line 3", "row 5"
    text: str


def text_files(places: Sequence[Path]) -> list[Path]:
    """Return the files behind folders, files and finished downloads; raises DataError where there are none."""
    found = []
    for place in places:
        if (place / INDEX_NAME).is_file():
            shards = TextShards.open(place)
            found += [*shards.train, shards.validation]
        else:
            found += find_text_files(place)
    return found


def left_alone(places: Sequence[Path]) -> list[Path]:
    """Return the files in folders of the user's own that are not read because of their names."""
    return [path for place in places if not (place / INDEX_NAME).is_file() for path in other_files(place)]


def state_of(place: Path) -> str | None:
    """Return a hash of the names, sizes and times of the files that would be read: another once one was written.

    None where there are no such files.
    """
    try:
        found = [(path.relative_to(place).as_posix(), path.stat()) for path in find_text_files(place)]
    except (DataError, OSError):
        return None  # whoever reads them says why
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()


def found_texts(files: Sequence[Path], bad: BadLines, *, column: str = TEXT_COLUMN) -> Iterator[FoundText]:
    """Yield the documents of the files, empty ones included; what cannot be read goes to `bad`."""
    for file in files:
        for place, text in read_texts(file, bad, column=column):
            yield FoundText(file, place, text)
