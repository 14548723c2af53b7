"""Text for validation, as rows and in one piece: read once, packed as the reference does, the same on every rank."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanochat_core.data.encoding_worker import encode_documents
from nanochat_core.data.packing import reference_rows
from nanochat_core.data.shards import row_groups
from nanochat_core.errors import DataError
from nanochat_core.specs import Packing
from nanochat_core.tokenizer.bpe import Tokenizer


def validation_rows(
    paths: Sequence[Path], tokenizer: Tokenizer, *, sequence_len: int, max_tokens: int, packing: Packing
) -> Tensor:
    """Return the first tokens of the shards as rows (n, T + 1), int64, as the reference packs its validation text.

    n is as many rows as `max_tokens` and the text allow. Raises DataError where the text does not fill one row.
    """
    wanted = max(1, max_tokens // sequence_len)
    if packing == "stream":
        rows = _stream_rows(paths, tokenizer, sequence_len, wanted)
    else:
        documents = (document for documents in _encoded_groups(paths, tokenizer) for document in documents)
        found = list(islice(reference_rows(documents, tokenizer.bos, sequence_len + 1), wanted))
        rows = np.stack(found) if found else np.empty((0, sequence_len + 1), np.int64)
    if not len(rows):
        raise DataError(f"The text does not fill one row of {sequence_len} tokens. Add text, or lower sequence_len.")
    return torch.from_numpy(rows)


def _stream_rows(paths: Sequence[Path], tokenizer: Tokenizer, sequence_len: int, wanted: int) -> np.ndarray:
    pieces, available = [np.empty(0, tokenizer.token_dtype)], 0
    for documents in _encoded_groups(paths, tokenizer):
        if available > wanted * sequence_len:
            break
        pieces.append(with_bos(documents, tokenizer.bos))
        available += len(pieces[-1])
    tokens = np.concatenate(pieces).astype(np.int64)
    rows = min(wanted, (len(tokens) - 1) // sequence_len)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, sequence_len + 1) if rows > 0 else tokens[:0]
    return windows[::sequence_len][:rows].copy()


def all_tokens(paths: Sequence[Path], tokenizer: Tokenizer) -> np.ndarray:
    """Return the tokens of all documents, each with BOS in front: of a corpus that fits into memory."""
    return np.concatenate([with_bos(documents, tokenizer.bos) for documents in _encoded_groups(paths, tokenizer)])


def with_bos(documents: Sequence[np.ndarray], bos: int) -> np.ndarray:
    """Return the documents joined, each with BOS in front."""
    lengths = [len(document) for document in documents]
    return np.insert(np.concatenate(documents), np.cumsum([0, *lengths[:-1]]), bos)


def _encoded_groups(paths: Sequence[Path], tokenizer: Tokenizer) -> Iterator[list[np.ndarray]]:
    """Yield the documents of one row group after the other, as ids without BOS."""
    for path, group, size in row_groups(paths):
        if not size:
            continue
        yield encode_documents(tokenizer, path, group, range(size))
