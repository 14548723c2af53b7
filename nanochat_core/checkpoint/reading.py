"""Checkpoints from the disk: every file verified before anything of it is used, and nothing unpickled."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nanochat_core.checkpoint.folders import META_FILE, MODEL_FILE, latest
from nanochat_core.checkpoint.meta import Checkpoint, CheckpointMeta, changed, read_meta
from nanochat_core.checkpoint.migration import OPTIMIZER_FILE_1, pieces_of_format_1
from nanochat_core.checkpoint.tensor_file import StoredTensors, verify
from nanochat_core.device import compute_dtype
from nanochat_core.errors import CheckpointError
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec


def load(path: Path, *, tokenizer_hash: str, device: torch.device) -> Checkpoint:
    """Return the whole checkpoint; tensors are read when they are asked for, model and optimizer onto `device`.

    Raises CheckpointError where a file is missing or changed, or the tokenizer is not the one it was trained with.
    """
    meta = read_meta(path)
    check_tokenizer(path, meta, tokenizer_hash)
    for name in sorted(meta.files):
        verify(path / name, meta.files[name])
    return Checkpoint(
        meta=meta,
        model=_stored(path, meta, MODEL_FILE, device),
        optimizer=_optimizer(path, meta, device),
        loader=dict(_stored(path, meta, "loader.", torch.device("cpu"))),
    )


def _stored(path: Path, meta: CheckpointMeta, prefix: str, device: torch.device) -> StoredTensors:
    """Return the tensors of all files of a checkpoint whose names begin so; there must be one."""
    names = [name for name in sorted(meta.files) if name.startswith(prefix)]
    if not names:
        raise changed(path / META_FILE)
    return StoredTensors((path / name for name in names), device)


def _optimizer(path: Path, meta: CheckpointMeta, device: torch.device) -> Mapping[str, Tensor]:
    if meta.format_version == 1:
        weights = _stored(path, meta, MODEL_FILE, torch.device("cpu"))
        return pieces_of_format_1(_stored(path, meta, OPTIMIZER_FILE_1, device), weights)
    return _stored(path, meta, "optimizer.", device)


def load_weights(path: Path, *, tokenizer_hash: str, device: torch.device) -> tuple[CheckpointMeta, dict[str, Tensor]]:
    """Return meta and model weights of a checkpoint, verified as in `load`; the other files are not read."""
    meta = read_meta(path)
    check_tokenizer(path, meta, tokenizer_hash)
    stored = _stored(path, meta, MODEL_FILE, device)
    verify(path / MODEL_FILE, meta.files[MODEL_FILE])
    return meta, dict(stored)


def load_model(
    folder: Path,
    *,
    tokenizer_hash: str,
    device: torch.device,
    reshape: Callable[[ModelSpec], ModelSpec] = lambda model: model,
    kind: type[GPT] = GPT,
) -> tuple[GPT, CheckpointMeta]:
    """Return the newest model of an artifact folder (or of a checkpoint folder), and its meta.

    `reshape` gives the same weights another shape (model/context.py); the meta says so. `kind`: a GPT with more to it.
    Raises CheckpointError where there is no model, it is damaged or of another kind, or the tokenizer is another one.
    """
    path = folder if (folder / META_FILE).is_file() else latest(folder / "checkpoints")
    if path is None:
        raise CheckpointError(f"{folder} holds no checkpoint. Run its stage first.")
    found, weights = load_weights(path, tokenizer_hash=tokenizer_hash, device=device)
    meta = found.model_copy(update={"model": reshape(found.model)})
    with torch.device("meta"):
        model = kind(meta.model, meta.vocab_size)
    check_shapes(path, model, weights)
    model.load_state_dict(weights, assign=True)
    model.compute_dtype = compute_dtype(meta.precision)
    return model, meta


def load_optimizer(folder: Path, *, device: torch.device) -> tuple[Mapping[str, Tensor], int]:
    """Return the pieces of the optimizer's state of the newest checkpoint of an artifact folder, and its steps.

    Raises CheckpointError where there is none, as with imported models, or it is damaged.
    """
    path = latest(folder / "checkpoints")
    if path is None:
        raise CheckpointError(f"{folder} holds no checkpoint. Run its stage first.")
    meta = read_meta(path)
    files = [name for name in sorted(meta.files) if name.startswith("optimizer.")]
    for name in files:
        verify(path / name, meta.files[name])
    pieces = _optimizer(path, meta, device) if files else {}
    if not pieces:
        raise CheckpointError(
            f"{path} holds no state of an optimizer: the model was imported. Set keep_optimizer to false, which begins "
            "with a fresh one."
        )
    return pieces, meta.optimizer_steps


def check_shapes(path: Path, model: GPT, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where `weights` are not those of the model: other names, or other shapes."""
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wrong := sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)):
        first = wrong[0]
        raise CheckpointError(
            f"{path} holds another model: {first} is {theirs.get(first, 'not there')}, expected "
            f"{ours.get(first, 'none')} ({len(wrong)} of {len(ours)} differ). Use the checkpoint of this model."
        )


def check_tokenizer(path: Path, meta: CheckpointMeta, tokenizer_hash: str) -> None:
    """Raise CheckpointError where the checkpoint was trained with another tokenizer."""
    if meta.tokenizer_hash != tokenizer_hash:
        raise CheckpointError(
            f"{path} was trained with the tokenizer {meta.tokenizer_hash[:16]}, not {tokenizer_hash[:16]}. "
            "Its ids mean other text: use the tokenizer of its own pipeline."
        )
