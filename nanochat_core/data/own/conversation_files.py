"""The user's own conversations: where they are, and whether they were written since; a copy of them, as the task data
stage makes it, is JSONL in our form.

A file is used whole: which of its conversations are for testing, its reader decides. A folder has one file for each
split, train.jsonl and test.jsonl, or of another kind that `conversation_reader.py` reads. Torch-free.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from nanochat_core.data.own.conversation_reader import kind_of, read_conversation_file
from nanochat_core.data.own.file_splits import SPLITS, WHOLE, state_of
from nanochat_core.errors import DataError
from nanochat_core.specs import MixtureItem

DATASET = "custom"


def conversation_files(place: Path) -> dict[str, Path]:
    """Return {split: file} of what is at `place`; raises DataError where there is nothing to read."""
    if place.is_dir():
        files = {split: _file_of(split, place) for split in SPLITS}
        if missing := [path.name for path in files.values() if not path.is_file()]:
            raise DataError(
                f"The folder {place} has no {' and no '.join(missing)}: put train.jsonl and test.jsonl there, or name "
                "one JSONL file (task_data.custom_path, or path in a mixture), of which a tenth is kept for testing."
            )
        return files
    if not place.is_file():
        raise DataError(
            f"There is no file {place}: name one of conversations, JSONL for example (task_data.custom_path, or path "
            "in a mixture)."
        )
    return {WHOLE: place}


def _file_of(split: str, folder: Path) -> Path:
    """Return the file of a split: train.jsonl where there is one, else the first by name that is read."""
    usual = folder / f"{split}.jsonl"
    others = [path for path in sorted(folder.glob(f"{split}.*")) if path.is_file() and kind_of(path)]
    return usual if usual.is_file() or not others else others[0]


def state_of_conversations(place: Path) -> str | None:
    """Return what is another once the files at `place` were written; None for no files."""
    return state_of(conversation_files, place)


def source_names(mixture: Sequence[MixtureItem]) -> list[str]:
    """Return what the rows of each item of a mixture are called: by its task, or by its file.

    A file has as many of its folders before its name as tell it from the other files and the tasks.

    >>> items = ("/a/dolly.jsonl", "/b/dolly.jsonl", "/c/own.json")
    >>> source_names([MixtureItem(path=item) for item in items] + [MixtureItem(task="Facts")])
    ['a/dolly.jsonl', 'b/dolly.jsonl', 'own.json', 'Facts']
    """
    paths = dict.fromkeys(item.path for item in mixture if item.path)
    tails = {
        path: ["/".join(PurePath(path).parts[-count:]) for count in range(1, path.count("/") + 1)] for path in paths
    }
    tasks = [item.task for item in mixture if item.task]
    names = {}
    for path in paths:
        others = {tail for other in paths if other != path for tail in tails[other]}
        names[path] = next((tail for tail in tails[path] if tail not in {*others, *tasks}), path)
    return [names[item.path] if item.path else str(item.task) for item in mixture]


def check_unchanged(places: Mapping[str, str | None]) -> None:
    """Raise DataError where files were written since; `places`: {place: its `state_of_conversations`}."""
    if changed := [place for place, state in places.items() if state_of_conversations(Path(place)) != state]:
        raise DataError(f"{changed[0]} has changed since this run began. Run it again, which reads the file as it is.")


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
