"""Checkpoints: folders that are whole or absent, loadable at any world size, without unpickling.

    checkpoints/step_00000400/{model.safetensors, optimizer.safetensors, loader.rank00000.safetensors, meta.json}

Written under a temporary name, fsynced, renamed. `meta.json` holds the step, the shape of the model, the hash of its
tokenizer, the digest of its data, and the SHA-256 of every other file and of itself: a changed byte is refused by name.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from nanochat_core.artifacts import DISK_FULL, canonical_json, json_bytes, read_json, sync_folder, write_json
from nanochat_core.device import compute_dtype
from nanochat_core.distributed import World
from nanochat_core.errors import ArtifactError, CheckpointError
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec, Precision

FORMAT_VERSION = 1
MODEL_FILE, OPTIMIZER_FILE, META_FILE = "model.safetensors", "optimizer.safetensors", "meta.json"


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
    files: dict[str, str] = {}  # name -> sha256
    seal: str = ""  # sha256 of all the rest


class Checkpoint(BaseModel):
    """One moment of training: `meta` and the tensors by name. `loader` holds the lanes of all ranks that saved."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    meta: CheckpointMeta
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    loader: dict[str, Tensor]


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def save(folder: Path, checkpoint: Checkpoint, world: World, *, keep: int) -> Path:
    """Write the checkpoint below `folder` (called by every rank, each with its own `loader`) and return its path.

    The newest `keep` are kept. Raises CheckpointError where the disk is full; earlier checkpoints stay whole.
    """
    final = folder / folder_name(checkpoint.meta.step)
    temporary = folder / f".{final.name}.tmp"
    hashes: dict[str, str] = {}
    try:
        if world.is_main:
            _remove_unfinished(folder)
        if (final / META_FILE).is_file():
            return final
        if world.is_main:
            temporary.mkdir(parents=True)
        world.barrier()
        own = {
            name: _write_tensors(temporary / name, tensors)
            for kind, tensors in (("loader", checkpoint.loader), ("optimizer", checkpoint.optimizer))
            if tensors and (name := f"{kind}.rank{world.rank:05d}.safetensors")
        }
        if world.is_main:
            own[MODEL_FILE] = _write_tensors(temporary / MODEL_FILE, checkpoint.model)
        for data in world.gather_bytes("".join(f"{file} {digest}\n" for file, digest in own.items()).encode()):
            hashes |= dict(line.split(" ") for line in data.decode().splitlines())
        if world.is_main:
            meta = checkpoint.meta.model_copy(update={"files": dict(sorted(hashes.items()))})
            write_json(temporary / META_FILE, _sealed(meta.model_dump()))
            sync_folder(temporary)
            os.rename(temporary, final)
            sync_folder(folder)
            _remove_old(folder, keep)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_explain_write_error(folder, error)) from error
    world.barrier()
    return final


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write a safetensors file through to the disk and return its SHA-256."""
    data = save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _explain_write_error(folder: Path, error: OSError) -> str:
    previous = latest(folder)
    kept = f"the last whole checkpoint is {previous.name}" if previous else "there is no earlier checkpoint"
    if error.errno in DISK_FULL:
        free = shutil.disk_usage(folder).free >> 20
        return f"The disk is full ({free} MiB free) while writing to {folder}; {kept}. Free space and run again."
    return f"Cannot write a checkpoint to {folder}: {error}; {kept}. Mend it and run again."


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    for path in folder.glob(".step_*.tmp"):
        shutil.rmtree(path)


def _remove_old(folder: Path, keep: int) -> None:
    for path in all_checkpoints(folder)[:-keep]:
        doomed = path.with_name(f".{path.name}.tmp")  # half removed, it must not look whole
        path.rename(doomed)
        shutil.rmtree(doomed)


def all_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints below `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / META_FILE).is_file())


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below `folder`, or None."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def read_meta(path: Path) -> CheckpointMeta:
    """Return a checkpoint's meta; raises CheckpointError where it is missing, changed or of a newer format."""
    try:
        value = read_json(path / META_FILE)
        if (version := value.get("format_version", 0)) > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version}, we read up to {FORMAT_VERSION}. Update nanochat."
            )
        meta = CheckpointMeta.model_validate(value)
    except (ArtifactError, ValidationError) as error:
        raise _changed(path / META_FILE) from error
    if json_bytes(_sealed(value)) != (path / META_FILE).read_bytes():
        raise _changed(path / META_FILE)
    return meta


def _sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return the content of meta.json with its seal: the SHA-256 of all the rest."""
    text = canonical_json({name: field for name, field in value.items() if name != "seal"})
    return value | {"seal": hashlib.sha256(text.encode()).hexdigest()}


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} has other bytes than were written. Delete {path.parent} and run its stage again.")


def load(path: Path, *, tokenizer_hash: str, device: torch.device) -> Checkpoint:
    """Return the whole checkpoint, every file verified against its hash, model and optimizer on `device`.

    Raises CheckpointError where a file is missing or changed, or the tokenizer is not the one it was trained with.
    """
    meta = read_meta(path)
    check_tokenizer(path, meta, tokenizer_hash)
    tensors = {name: _read_tensors(path / name, digest) for name, digest in meta.files.items()}
    merged: dict[str, dict[str, Tensor]] = {"loader": {}, "optimizer": {}}
    for name in sorted(tensors):
        if (kind := name.split(".")[0]) in merged:
            merged[kind] |= tensors[name]
    return Checkpoint(meta=meta, model=_to(tensors[MODEL_FILE], device), **merged)


def load_weights(path: Path, *, tokenizer_hash: str, device: torch.device) -> tuple[CheckpointMeta, dict[str, Tensor]]:
    """Return meta and model weights of a checkpoint, verified as in `load`; the other files are not read."""
    meta = read_meta(path)
    check_tokenizer(path, meta, tokenizer_hash)
    return meta, _to(_read_tensors(path / MODEL_FILE, meta.files[MODEL_FILE]), device)


def load_model(folder: Path, *, tokenizer_hash: str, device: torch.device) -> tuple[GPT, CheckpointMeta]:
    """Return the newest model of an artifact folder (or of a checkpoint folder), and its meta.

    Raises CheckpointError where there is none, it is damaged, or the tokenizer is another one.
    """
    path = folder if (folder / META_FILE).is_file() else latest(folder / "checkpoints")
    if path is None:
        raise CheckpointError(f"{folder} holds no checkpoint. Run its stage first.")
    meta, weights = load_weights(path, tokenizer_hash=tokenizer_hash, device=device)
    with torch.device("meta"):
        model = GPT(meta.model, meta.vocab_size)
    model.load_state_dict(weights, assign=True)
    model.compute_dtype = compute_dtype(meta.precision)
    return model, meta


def check_tokenizer(path: Path, meta: CheckpointMeta, tokenizer_hash: str) -> None:
    """Raise CheckpointError where the checkpoint was trained with another tokenizer."""
    if meta.tokenizer_hash != tokenizer_hash:
        raise CheckpointError(
            f"{path} was trained with the tokenizer {meta.tokenizer_hash[:16]}, not {tokenizer_hash[:16]}. "
            "Its ids mean other text: use the tokenizer of its own pipeline."
        )


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path}: {error.strerror}. Delete {path.parent} and run its stage again."
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise _changed(path)
    return load_safetensors(data)


def _to(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
