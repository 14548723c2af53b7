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
        self._processes: list[subprocess.Popen[bytes]] = []
        for _ in range(num_workers):
            self._idle.put(self._start())

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
        # In a session of its own: what ends a rank's process group lets the rank finish its step and save first.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._processes.append(process)
        return process

    def _ask(self, path: Path, group: int, documents: Sequence[int]) -> list[np.ndarray]:
        """Have a worker do the job, a second one where the first died; runs in a thread, of which there are as many."""
        process = self._idle.get()
        job = json.dumps({"path": str(path), "group": group, "documents": list(documents)}).encode() + b"\n"
        try:
            try:
                return self._answer(process, job, len(documents))
            except (BrokenPipeError, ValueError):
                process.kill()
                process = self._start()
                return self._answer(process, job, len(documents))
        except (BrokenPipeError, ValueError):
            process.kill()
            raise DataError(
                f"Two processes that encode row group {group} of {path} ended, the last with status {process.wait()}: "
                "the log shows why; run again, or set pretrain.runtime.encoding_workers lower where memory ran out."
            ) from None
        finally:
            self._idle.put(process)

    def _answer(self, process: "subprocess.Popen[bytes]", job: bytes, documents: int) -> list[np.ndarray]:
        """Return the ids; raises BrokenPipeError or ValueError where the worker is gone, DataError for a bad shard."""
        process.stdin.write(job)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            raise DataError(answer["error"])
        ids = self._read(process, answer["tokens"], self._tokenizer.token_dtype)
        offsets = self._read(process, documents + 1, np.dtype(np.int64))
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
