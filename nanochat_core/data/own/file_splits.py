"""Files of the user's own, cut in two: one for training and one for testing, or one for both. Torch-free."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from nanochat_core.errors import DataError

SPLITS = ("train", "test")
WHOLE = "all"  # the split of a file that is train and test in one


def state_of(files_at: Callable[[Path], Mapping[str, Path]], place: Path) -> str | None:
    """Return a hash of the names, sizes and times of the files at `place`, another once one was written; None for no
    files. `files_at` returns {split: file}, or raises DataError."""
    try:
        facts = [(split, path.stat().st_size, path.stat().st_mtime_ns) for split, path in files_at(place).items()]
    except (DataError, OSError):
        return None  # whoever reads them says why
    return hashlib.sha256(repr(facts).encode()).hexdigest()
