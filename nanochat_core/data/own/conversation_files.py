"""The user's own conversations, as the task data stage finds, checks and copies them: the copies are JSONL in our form.

A file is used whole: which of its conversations are for testing, its reader decides. A folder has one file for each
split, train.jsonl and test.jsonl, or of another kind that `conversation_reader.py` reads. Torch-free.
"""

import hashlib
import json
import shutil
from pathlib import Path

from nanochat_core.data.own.conversation_reader import kind_of, read_conversation_file
from nanochat_core.errors import DataError

DATASET = "custom"
SPLITS = ("train", "test")
WHOLE = "all"  # the split of a file that is train and test in one


def conversation_files(place: Path) -> dict[str, Path]:
    """Return {split: file} of what is at `place`; raises DataError where there is nothing to read."""
    if place.is_dir():
        files = {split: _file_of(split, place) for split in SPLITS}
        if missing := [path.name for path in files.values() if not path.is_file()]:
            raise DataError(
                f"The folder {place} has no {' and no '.join(missing)}: put train.jsonl and test.jsonl there, or set "
                "task_data.custom_path to one JSONL file, of which a tenth is kept for testing."
            )
        return files
    if not place.is_file():
        raise DataError(f"There is no file {place}: set task_data.custom_path to a JSONL file of conversations.")
    return {WHOLE: place}


def _file_of(split: str, folder: Path) -> Path:
    """Return the file of a split: train.jsonl where there is one, else the first by name that is read."""
    usual = folder / f"{split}.jsonl"
    others = [path for path in sorted(folder.glob(f"{split}.*")) if path.is_file() and kind_of(path)]
    return usual if usual.is_file() or not others else others[0]


def state_of_conversations(place: Path) -> str | None:
    """Return a hash of the names, sizes and times of the files, another once one was written; None for no files."""
    try:
        facts = [
            (split, path.stat().st_size, path.stat().st_mtime_ns) for split, path in conversation_files(place).items()
        ]
    except (DataError, OSError):
        return None  # whoever reads them says why
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def copy_conversations(place: Path, folder: Path) -> dict[str, list[str]]:
    """Check every line and copy the files into `folder`/data/custom; return {split: [the copy, relative to `folder`]}.

    A JSONL file that is in our form throughout is copied byte for byte. Raises DataError that names file and line of
    what is wrong.
    """
    found = {}
    for split, path in conversation_files(place).items():
        read = read_conversation_file(path)
        name = f"data/{DATASET}/{split}.jsonl"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if read.is_ours and path.suffix == ".jsonl":
            shutil.copyfile(path, folder / name)
        else:
            lines = (json.dumps(conversation, ensure_ascii=False) + "\n" for conversation in read.conversations)
            (folder / name).write_text("".join(lines), encoding="utf-8", errors="replace")
        found[split] = [name]
    return found
