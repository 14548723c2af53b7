"""Safetensors files, written and verified in one pass without a second copy in memory.

The format: eight bytes with the length of a JSON header, the header (name -> dtype, shape, first and last byte), and
the tensors' bytes. `safetensors.torch.save` returns the whole file as one bytes object, which for a model of some
billion parameters is as much memory again, and hashing it is another pass; here each tensor goes to the disk and into
the hash as it is. The bytes are the same.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nanochat_core.checkpoint.meta import changed
from nanochat_core.errors import CheckpointError

DTYPES = {  # of those that our state has, the widest first, as the format's own writer sorts them
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
CHUNK_BYTES = 1 << 24


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write `tensors` through to the disk and return the file's SHA-256."""
    order = list(DTYPES)
    ordered = dict(sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0])))
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for data in _parts(ordered):
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file piece by piece."""
    header, first = {}, 0
    for name, tensor in tensors.items():
        end = first + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, end]}
        first = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of some files, each read when it is asked for, on `device`.

    So a rank that needs its part of a checkpoint does not hold all of it.
    """

    def __init__(self, paths: Iterator[Path], device: torch.device) -> None:
        files = [safe_open(path, framework="pt", device="cpu") for path in paths]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no mapping
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name).to(self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def verify(path: Path, digest: str) -> None:
    """Raise CheckpointError where the file cannot be read or has another hash."""
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path}: {error.strerror}. Delete {path.parent} and run its stage again."
        ) from error
    if found != digest:
        raise changed(path)
