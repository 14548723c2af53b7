"""What a checkpoint holds: tensors by name, and `meta.json` with all else and a seal over everything."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from nanochat_core.artifacts import canonical_json, json_bytes, read_json
from nanochat_core.checkpoint.folders import META_FILE
from nanochat_core.errors import ArtifactError, CheckpointError
from nanochat_core.specs import ModelSpec, Precision

FORMAT_VERSION = 2


class CheckpointMeta(BaseModel):
    """What is not a tensor."""

    model_config = ConfigDict(frozen=True)
    format_version: int = FORMAT_VERSION
    stage: str
    step: int
    tokens: int
    optimizer_steps: int
    model: ModelSpec
    vocab_size: int
    precision: Precision
    tokenizer_hash: str
    data_digest: str
    skipped_batches: tuple[int, ...] = ()  # numbers of the batches that were left out, counted from 1
    files: dict[str, str] = {}  # name -> sha256
    seal: str = ""  # sha256 of all the rest


class Checkpoint(BaseModel):
    """One moment of training: `meta` and the tensors by name.

    `optimizer` and `loader` hold, when they are saved, what this rank has ("{parameter}/{slot}@{first row}", lanes);
    when they are loaded, what all ranks had that saved.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    meta: CheckpointMeta
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    loader: Mapping[str, Tensor]


def read_meta(path: Path) -> CheckpointMeta:
    """Return the meta of the checkpoint at `path`, of this format or an earlier one.

    Raises CheckpointError where it is missing, changed or of a newer format.
    """
    try:
        value = read_json(path / META_FILE)
        if (version := value.get("format_version", 0)) > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version}, we read up to {FORMAT_VERSION}. Update nanochat."
            )
        meta = CheckpointMeta.model_validate(value)
    except (ArtifactError, ValidationError, TypeError, AttributeError) as error:
        raise changed(path / META_FILE) from error
    if json_bytes(sealed(value)) != (path / META_FILE).read_bytes():
        raise changed(path / META_FILE)
    return meta


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return the content of meta.json with its seal: the SHA-256 of all the rest."""
    text = canonical_json({name: field for name, field in value.items() if name != "seal"})
    return value | {"seal": hashlib.sha256(text.encode()).hexdigest()}


def changed(path: Path) -> CheckpointError:
    """Return the error that a file of a checkpoint is not what was written."""
    return CheckpointError(f"{path} has other bytes than were written. Delete {path.parent} and run its stage again.")
