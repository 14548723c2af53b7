"""The folder of a run's checkpoints: names, which of them are whole, and the removal of old and unfinished ones."""

import shutil
from pathlib import Path

MODEL_FILE, META_FILE = "model.safetensors", "meta.json"


def folder_name(step: int) -> str:
    """Return a checkpoint's name.

    >>> folder_name(400)
    'step_00000400'
    """
    return f"step_{step:08d}"


def unfinished(path: Path) -> Path:
    """Return the name under which a checkpoint is written, or removed: one that is never taken for whole."""
    return path.with_name(f".{path.name}.tmp")


def rank_file(kind: str, rank: int) -> str:
    """Return the name of what one rank has written.

    >>> rank_file("loader", 3)
    'loader.rank00003.safetensors'
    """
    return f"{kind}.rank{rank:05d}.safetensors"


def all_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints below `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / META_FILE).is_file())


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below `folder`, or None."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    for path in folder.glob(".step_*.tmp"):
        shutil.rmtree(path)


def remove_old(folder: Path, keep: int) -> None:
    """Remove all whole checkpoints but the newest `keep`."""
    for path in all_checkpoints(folder)[:-keep]:
        doomed = unfinished(path)  # half removed, it must not look whole
        path.rename(doomed)
        shutil.rmtree(doomed)
