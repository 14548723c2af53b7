"""A folder in transformers' format, read without transformers and without running anything of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanochat_core import artifacts
from nanochat_core.conversion import model_config, tensor_names
from nanochat_core.conversion.tokenizer_files import CONFIG_FILE as TOKENIZER_CONFIG
from nanochat_core.conversion.tokenizer_files import TEMPLATE_FILE
from nanochat_core.conversion.tokenizer_source import read_tokenizer
from nanochat_core.errors import ArtifactError, CheckpointError, SpecError
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec, Precision
from nanochat_core.tokenizer.bpe import FILE_NAME, Tokenizer

MANIFEST_FILE, CONFIG_FILE = "export_manifest.json", "config.json"
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Imported:
    """A model from elsewhere in our terms: float32 weights by our names, tables padded as ours. `notes` are for people.

    `stage` is None where nothing says which it was.
    """

    model: ModelSpec
    vocab_size: int
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    stage: str | None
    precision: Precision
    step: int = 0
    tokens: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    source: str = "transformers"
    notes: tuple[str, ...] = ()


def is_transformers_folder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def read_folder(folder: Path, tokenizer_file: Path | None = None) -> Imported:
    """Return the model in `folder`: an export of ours, or a NanoChat model of transformers.

    Raises SpecError, ArtifactError or CheckpointError for what is none, is damaged, or holds what we cannot compute.
    """
    config = artifacts.read_json(folder / CONFIG_FILE)
    manifest = _own_manifest(folder)
    model = model_config.shape_of(config)
    tokenizer = read_tokenizer(tokenizer_file or folder / FILE_NAME)
    vocab_size = config.get("vocab_size")
    if vocab_size != tokenizer.vocab_size:
        raise SpecError(
            f"config.json says {vocab_size} tokens, the tokenizer has {tokenizer.vocab_size}: they are not of one "
            "model. Give the tokenizer that it was trained with (--tokenizer)."
        )
    theirs = _read_weights(folder)
    names = tensor_names.to_ours(theirs, tensor_names.TRANSFORMERS)
    weights = {names[name]: tensor.float() for name, tensor in theirs.items()}
    is_half = str(config.get("dtype", config.get("torch_dtype"))) in ("bfloat16", "float16")
    return Imported(
        model=model,
        vocab_size=vocab_size,
        weights=fitted(model, vocab_size, weights, folder),
        tokenizer=tokenizer,
        stage=manifest.get("stage") or ("sft" if _has_chat_template(folder) else None),
        precision=manifest.get("precision") or ("bf16" if is_half else "fp32"),
        step=manifest.get("step", 0),
        tokens=manifest.get("tokens", 0),
        metrics=manifest.get("metrics", {}),
        source="nanochat export" if manifest else "transformers",
        notes=tuple(_notes(config)),
    )


def _own_manifest(folder: Path) -> dict[str, Any]:
    """Return export_manifest.json, or {} for a folder of somebody else; raises ArtifactError for changed files."""
    if not (folder / MANIFEST_FILE).is_file():
        return {}
    manifest = artifacts.read_json(folder / MANIFEST_FILE)
    for name, record in manifest.get("files", {}).items():
        path = folder / name
        if name.endswith((".safetensors", ".json")) and not path.is_file():
            raise ArtifactError(f"{path} is missing: the export is damaged. Export the model again.")
        if name.endswith(".safetensors") and artifacts.sha256_of(path) != record["sha256"]:
            raise ArtifactError(f"{path} has other bytes than were exported. Export the model again.")
    return manifest


def _has_chat_template(folder: Path) -> bool:
    config = folder / TOKENIZER_CONFIG
    return (folder / TEMPLATE_FILE).is_file() or (
        config.is_file() and bool(artifacts.read_json(config).get("chat_template"))
    )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    names = [WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX).is_file():
        index = artifacts.read_json(folder / WEIGHTS_INDEX)
        names = sorted(set(index.get("weight_map", {}).values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        if not path.is_file():
            raise ArtifactError(
                f"{folder} has no {name}: expected the weights as safetensors, no other format is read."
            )
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}. Fetch it again.") from None
    return tensors


def _notes(config: dict[str, Any]) -> list[str]:
    epsilon = config.get("rms_norm_eps", 1e-6)
    if config["model_type"] != model_config.CLASSIC or epsilon == model_config.EPSILON:
        return []
    return [f"rms_norm_eps: {epsilon:g} there, {model_config.EPSILON:.3g} here; the difference is below rounding"]


def fitted(model: ModelSpec, vocab_size: int, weights: dict[str, Tensor], origin: Path) -> dict[str, Tensor]:
    """Return `weights` with tables of as many rows as our model has: padding cut off, or zeros added.

    Raises CheckpointError where tensors are missing or of another shape.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in GPT(model, vocab_size).state_dict().items()}
    if missing := sorted(set(expected) - set(weights)):
        raise CheckpointError(f"{origin} lacks {len(missing)} tensors of this model, {missing[0]} first.")
    if surplus := sorted(set(weights) - set(expected)):
        raise CheckpointError(
            f"{origin} holds {len(surplus)} tensors that a {model.arch} model of this shape does not have, "
            f"{surplus[0]} first."
        )
    found = {name: _padded(name, tensor, expected[name], vocab_size) for name, tensor in weights.items()}
    wrong = [name for name, tensor in found.items() if tuple(tensor.shape) != expected[name]]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{origin}: {name} is {tuple(weights[name].shape)}, expected {expected[name]} ({len(wrong)} differ)."
        )
    if strange := [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{origin}: {strange[0]} has values that are no numbers; take an earlier checkpoint.")
    return found


def _padded(name: str, tensor: Tensor, shape: tuple[int, ...], vocab_size: int) -> Tensor:
    """Return a table with the rows of `shape`: rows that no token has are cut off, or zero. Others as they are."""
    is_whole = tensor.dim() == 2 and tensor.size(0) >= vocab_size and tensor.size(1) == shape[-1]
    if not tensor_names.is_table(name) or not is_whole or tuple(tensor.shape) == shape:
        return tensor
    table = torch.zeros(shape)
    table[:vocab_size] = tensor[:vocab_size]
    return table
