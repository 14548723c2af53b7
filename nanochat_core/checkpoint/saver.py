"""Checkpoints to the disk: at once, or in the background while training goes on.

A save has two halves. Each rank *writes* its files below a temporary name; once all have, rank 0 *commits*: meta.json
with everybody's hashes, fsync, rename, removal of the oldest. What was never renamed is never read, so a kill at any
moment costs a checkpoint that was being written and no whole one.

In the background a thread writes, and the ranks agree after each step whether all threads are done, by one small sum
while a save is under way and nothing at other times; then they commit, all after the same step. A thread that waited
for the others' files would be less to say, but it would have to guess how long to wait for a rank that failed or sees
the folder late (NFS), and threads must not use the process group, whose operations the training orders. An error of
one rank's thread thus reaches all ranks, after the same step, instead of leaving them waiting for each other.
"""

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nanochat_core.artifacts import DISK_FULL, sync_folder, write_json
from nanochat_core.checkpoint.folders import (
    META_FILE,
    MODEL_FILE,
    folder_name,
    latest,
    rank_file,
    remove_old,
    remove_unfinished,
    unfinished,
)
from nanochat_core.checkpoint.host_copies import HostCopies
from nanochat_core.checkpoint.meta import FORMAT_VERSION, Checkpoint, CheckpointMeta, sealed
from nanochat_core.checkpoint.tensor_file import write_tensors
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError

FAILED = b"!"  # before the explanation, in place of the hashes


def save(folder: Path, checkpoint: Checkpoint, world: World, *, keep: int) -> Path:
    """Write the checkpoint below `folder` (called by every rank, each with its own part) and return its path.

    The newest `keep` are kept. Raises CheckpointError where the disk is full; earlier checkpoints stay whole.
    """
    Saver(folder, world, keep=keep, in_background=False).save(checkpoint)
    return folder / folder_name(checkpoint.meta.step)


class Saver:
    """Saves the checkpoints of one run. Every rank has one, and calls each method after the same steps as the others.

    `in_background`: a thread writes, from copies; default where copying does not stop the training, on CUDA.
    """

    def __init__(self, folder: Path, world: World, *, keep: int, in_background: bool | None = None) -> None:
        self._folder, self._world, self._keep = folder, world, keep
        self._in_background = world.device.type == "cuda" if in_background is None else in_background
        self._copies = HostCopies(world.device)
        self._thread: threading.Thread | None = None
        self._meta: CheckpointMeta | None = None  # of the save that is under way
        self._outcome = b""

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to save; the end of the save before is waited for, and in the foreground that of this one too.

        Raises CheckpointError where this or the earlier one cannot be written.
        """
        self.finish()
        path = self._folder / folder_name(checkpoint.meta.step)
        if (path / META_FILE).is_file():
            return
        problem = self._prepare(unfinished(path))
        self._world.barrier()
        self._meta = checkpoint.meta
        tensors = self._own_files(checkpoint)
        if problem:
            self._outcome = FAILED + problem.encode()
        elif self._in_background:
            tensors = {name: self._copies.take(part) for name, part in tensors.items()}
            self._thread = threading.Thread(target=self._write, args=(unfinished(path), tensors), name="checkpoint")
            self._thread.start()
        else:
            self._write(unfinished(path), tensors)
        if not self._in_background:
            self.finish()

    def hold_updates(self) -> None:
        """To be called before weights and optimizer change: on CUDA, their copies come first."""
        if self._meta is not None:
            self._copies.hold_updates()

    def poll(self) -> None:
        """After a step: commit what all ranks have written by now. Raises CheckpointError where one could not."""
        if self._meta is None:
            return
        is_done = self._thread is None or not self._thread.is_alive()
        done = self._world.sum_(torch.tensor(float(is_done), device=self._world.device))
        if int(done) == self._world.size:
            self._commit(self._meta)

    def finish(self) -> None:
        """Wait for the save that is under way, if any, and commit it."""
        if self._meta is None:
            return
        if self._thread is not None:
            self._thread.join()
        self._commit(self._meta)

    def _prepare(self, temporary: Path) -> str:
        """Make room (rank 0); return what is wrong, for all ranks to hear, or nothing."""
        try:
            if self._world.is_main:
                remove_unfinished(self._folder)
                temporary.mkdir(parents=True)
        except OSError as error:
            return self._explain(error)
        return ""

    def _own_files(self, checkpoint: Checkpoint) -> dict[str, Mapping[str, Tensor]]:
        """Return the tensors of each file that this rank writes."""
        rank = self._world.rank
        files = {rank_file("loader", rank): checkpoint.loader, rank_file("optimizer", rank): checkpoint.optimizer}
        return files | ({MODEL_FILE: checkpoint.model} if self._world.is_main else {})

    def _write(self, temporary: Path, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write this rank's files and note their hashes, or what went wrong."""
        try:
            self._copies.wait()
            hashes = {name: write_tensors(temporary / name, tensors) for name, tensors in files.items()}
            self._outcome = "".join(f"{name} {digest}\n" for name, digest in hashes.items()).encode()
        except OSError as error:
            self._outcome = FAILED + self._explain(error).encode()
        except BaseException as error:  # of the thread: for the training to raise
            self._outcome = FAILED + f"Cannot write a checkpoint: {error!r}".encode()
            if self._thread is None:
                raise

    def _commit(self, meta: CheckpointMeta) -> None:
        """Turn what all ranks have written into a checkpoint, or raise what one of them has to say."""
        outcomes = self._world.gather_bytes(self._outcome)
        self._thread = self._meta = None
        path = self._folder / folder_name(meta.step)
        problem = next((outcome[1:].decode() for outcome in outcomes if outcome.startswith(FAILED)), "")
        if not problem:
            renamed = b""
            if self._world.is_main:
                hashes = dict(line.split() for line in b"".join(outcomes).decode().splitlines())
                renamed = self._rename(path, meta, hashes).encode()
            problem = b"".join(self._world.gather_bytes(renamed)).decode()  # all ranks go on, or none
        if problem:
            if self._world.is_main:
                shutil.rmtree(unfinished(path), ignore_errors=True)
            raise CheckpointError(problem)

    def _rename(self, path: Path, meta: CheckpointMeta, hashes: dict[str, str]) -> str:
        """Make the checkpoint whole and remove the oldest; return what is wrong, or nothing."""
        meta = meta.model_copy(update={"files": dict(sorted(hashes.items())), "format_version": FORMAT_VERSION})
        try:
            write_json(unfinished(path) / META_FILE, sealed(meta.model_dump(mode="json")))
            sync_folder(unfinished(path))
            os.rename(unfinished(path), path)
            sync_folder(self._folder)
            remove_old(self._folder, self._keep)
        except OSError as error:
            return self._explain(error)
        return ""

    def _explain(self, error: OSError) -> str:
        folder, previous = self._folder, latest(self._folder)
        kept = f"the last whole checkpoint is {previous.name}" if previous else "there is no earlier checkpoint"
        if error.errno in DISK_FULL:
            free = shutil.disk_usage(folder).free >> 20
            return f"The disk is full ({free} MiB free) while writing to {folder}; {kept}. Free space and run again."
        return f"Cannot write a checkpoint to {folder}: {error}; {kept}. Mend it and run again."
