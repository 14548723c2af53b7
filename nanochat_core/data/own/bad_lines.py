"""What could not be read of a user's files: never dropped in silence, always with its file and place. Torch-free."""

import json
from pathlib import Path

from nanochat_core.errors import DataError

RECORD_NAME = "bad_lines.jsonl"
SHOWN = 5


class BadLines:
    """Counts what is bad, and lists it in `record`, one JSON object a line: {"file", "place", "reason"}."""

    def __init__(self, record: Path | None = None, *, allowed: int = 0) -> None:
        self.count = 0
        self._allowed, self._record = allowed, record
        self.first: list[str] = []
        if record:
            record.unlink(missing_ok=True)

    def add(self, path: Path, place: str, reason: str) -> None:
        """Write down that `place` (a line, a row group) of `path` is left out, and why."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{path}, {place}: {reason}")
        if self._record:
            with open(self._record, "a", encoding="utf-8") as file:
                file.write(json.dumps({"file": str(path), "place": place, "reason": reason}) + "\n")

    def check(self) -> None:
        """Raise DataError where there are more than allowed."""
        if self.count <= self._allowed:
            return
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        where = f" All of them: {self._record}." if self._record and more else ""
        raise DataError(
            f"{self.count} bad lines, {self._allowed} allowed (download.max_bad_lines): {'; '.join(self.first)}{more}."
            f"{where} Mend them, or allow as many."
        )
