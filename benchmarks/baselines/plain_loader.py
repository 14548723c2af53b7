"""Baseline: a loader in one process, as one writes it over pyarrow, tiktoken and torch. Frozen.

Row group by row group; 128 documents at a time are encoded with tiktoken's own thread pool; rows are packed by
`ListPacker`; a step is a tensor of (rows, T + 1), cut into ids and targets.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import tiktoken
import torch

from benchmarks.baselines.linear_packer import ListPacker

BATCH = 128


def documents(paths: Sequence[Path], encoding: tiktoken.Encoding, num_threads: int) -> Iterator[list[int]]:
    """Yield the ids of one document after the other, epoch after epoch."""
    while True:
        for path in paths:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group, columns=["text"]).column("text").to_pylist()
                for first in range(0, len(texts), BATCH):
                    yield from encoding.encode_ordinary_batch(texts[first : first + BATCH], num_threads=num_threads)


def steps(
    paths: Sequence[Path], encoding: tiktoken.Encoding, *, bos: int, rows: int, sequence_len: int, num_threads: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ids and targets, each int64 (rows, T)."""
    packer = ListPacker(documents(paths, encoding, num_threads), bos, sequence_len + 1)
    while True:
        batch = torch.tensor([packer.row() for _ in range(rows)])
        yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
