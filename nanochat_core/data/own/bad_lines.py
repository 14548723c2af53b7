"""What could not be read of a user's files: never dropped in silence, always with its file and place. Torch-free."""

import json
from pathlib import Path

from nanochat_core.errors import DataError

RECORD_NAME = "bad_lines.jsonl"
SHOWN = 5
ENOUGH = 10_000  # entries: a file of a wrong kind would fill the disk with them
MAX_REASON_CHARACTERS = 300


class BadLines:
    """Counts what is bad, and lists it in `record`, one JSON object a line: {"file", "place", "reason"}.

    `allowed` is how many lines may be bad; None: any number.
    """

    def __init__(self, record: Path | None = None, *, allowed: int | None = None) -> None:
        self.count = 0
        self.entries = 0
        self.first: list[str] = []
        self._allowed, self._record = allowed, record
        if record:
            record.unlink(missing_ok=True)

    def add(self, path: Path, place: str, reason: str, *, lines: int = 1) -> None:
        """Write down that `place` (a line, a row group of `lines` rows) of `path` is left out, and why.

        Raises DataError where more than enough is bad to stop.
        """
        self.count += max(1, lines)
        self.entries += 1
        file, reason = _printable(str(path)), _printable(reason)[:MAX_REASON_CHARACTERS]
        if len(self.first) < SHOWN:
            self.first.append(f"{file}, {place}: {reason}")
        if self._record:
            with open(self._record, "a", encoding="utf-8") as record:
                record.write(json.dumps({"file": file, "place": place, "reason": reason}) + "\n")
        if self.entries >= ENOUGH:
            self.check(is_cut=True)

    def check(self, *, is_cut: bool = False) -> None:
        """Raise DataError where there are more than allowed. `is_cut`: the files have not been read to their end."""
        if self._allowed is None or self.count <= self._allowed:
            return
        number = f"{self.count:,} bad line{'s' * (self.count != 1)}{' (reading stopped there)' * is_cut}"
        where = f" All of them: {self._record}." if self._record and self.more else ""
        raise DataError(
            f"{number}, {self._allowed:,} allowed (download.max_bad_lines): {'; '.join(self.first)}{self.more}."
            f"{where} Mend them, choose another field (download.text_column), or allow as many."
        )

    @property
    def more(self) -> str:
        """How many places there are besides the first, as the end of a list of those."""
        return f"; and {self.entries - len(self.first):,} more" if self.entries > len(self.first) else ""


def _printable(text: str) -> str:
    """Return `text` on one line, without what would steer a terminal.

    >>> _printable("a\\nb \\x1b[31m")
    'a\\\\nb \\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
