"""Processes that encode documents ahead of the training: `python -m nanochat_core.data.encoding_worker TOKENIZER`.

Each reads jobs from its standard input and ends when that does, so that none outlives a trainer, however it died:

    in:   {"path": "…/shard_00000.parquet", "group": 3, "documents": [0, 8, 16]}            one line
    out:  {"tokens": 1234} or {"error": "…"}                                                one line
          the ids of all documents, then where each begins, int64 (documents + 1,)          bytes

Nothing is pickled, and a worker imports no torch. Torch-free.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nanochat_core.data.shards import read_row_group
from nanochat_core.errors import DataError, NanochatError
from nanochat_core.tokenizer.bpe import Tokenizer


def encode_documents(tokenizer: Tokenizer, path: Path, group: int, documents: Sequence[int]) -> list[np.ndarray]:
    """Return the ids of some documents of a row group, without BOS."""
    ids, offsets = _encoded(tokenizer, path, group, documents)
    return np.split(ids, offsets[1:-1]) if len(documents) else []


def _encoded(tokenizer: Tokenizer, path: Path, group: int, documents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    return tokenizer.encode_flat(read_row_group(path, group, documents))


class EncodingWorkers:
    """`num_workers` processes; jobs are done in the order in which they come. 0: each job is done at once, here."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_folder: Path, num_workers: int) -> None:
        self._tokenizer, self._folder = tokenizer, tokenizer_folder
        self._threads = ThreadPoolExecutor(num_workers, "encoding") if num_workers else None
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._processes = [self._start() for _ in range(num_workers)]

    def submit(self, path: Path, group: int, documents: Sequence[int]) -> "Future[list[np.ndarray]]":
        """Return the future ids of these documents. It raises DataError where the shard is corrupt."""
        if self._threads:
            return self._threads.submit(self._ask, path, group, documents)
        done: Future[list[np.ndarray]] = Future()
        done.set_result(encode_documents(self._tokenizer, path, group, documents))
        return done

    def close(self) -> None:
        """End the processes; jobs that have not begun are dropped."""
        if self._threads:
            self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "nanochat_core.data.encoding_worker", str(self._folder)]
        environment = os.environ | {"RAYON_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._idle.put(process)
        return process

    def _ask(self, path: Path, group: int, documents: Sequence[int]) -> list[np.ndarray]:
        """Hand the job to a worker and read its answer; runs in a thread, of which there are as many as workers."""
        process = self._idle.get()
        try:
            job = {"path": str(path), "group": group, "documents": list(documents)}
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if "error" in answer:
                raise DataError(answer["error"])
            ids = self._read(process, answer["tokens"], self._tokenizer.token_dtype)
            offsets = self._read(process, len(documents) + 1, np.dtype(np.int64))
        except (BrokenPipeError, ValueError):
            raise DataError(
                f"A process that encodes text ended with status {process.wait()}: the log shows why; run again."
            ) from None
        finally:
            self._idle.put(process)
        return np.split(ids, offsets[1:-1]) if documents else []

    @staticmethod
    def _read(process: "subprocess.Popen[bytes]", count: int, dtype: np.dtype) -> np.ndarray:
        data = process.stdout.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise BrokenPipeError
        return np.frombuffer(data, dtype)


def main() -> None:
    """Do the jobs of standard input."""
    tokenizer = Tokenizer.load(Path(sys.argv[1]))
    for line in sys.stdin.buffer:
        job = json.loads(line)
        try:
            ids, offsets = _encoded(tokenizer, Path(job["path"]), job["group"], job["documents"])
        except NanochatError as error:
            parts = [json.dumps({"error": str(error)}).encode() + b"\n"]
        else:
            parts = [json.dumps({"tokens": len(ids)}).encode() + b"\n", ids.tobytes(), offsets.tobytes()]
        try:
            sys.stdout.buffer.write(b"".join(parts))
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody waits for the answer
            return


if __name__ == "__main__":
    main()
