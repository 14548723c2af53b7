"""A checkpoint folder of the original nanochat: `model_000123.pt`, `meta_000123.json`; its optimizer is left alone.

Its weights are the one thing that this project unpickles, by torch's restricted reader, which builds tensors and
nothing else. Newer fields that an older checkpoint lacks get the values with which they change nothing.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_core import artifacts
from nanochat_core.conversion import tensor_names
from nanochat_core.conversion.tokenizer_source import WANTED, read_tokenizer
from nanochat_core.conversion.transformers_folder import Imported, fitted
from nanochat_core.errors import ArtifactError, SpecError
from nanochat_core.model.accounting import (
    FULL_WINDOW_PATTERN,
    SMEAR_CHANNELS,
    VALUE_GATE_CHANNELS,
    kv_width,
    short_window,
    value_embedding_layers,
)
from nanochat_core.model.blocks import BLOCK_SETS
from nanochat_core.specs import Arch, ModelSpec
from nanochat_core.tokenizer.bpe import FILE_NAME

MODEL_FILE = re.compile(r"model_(\d+)\.pt")
TABLES = ("cos", "sin")  # of the rotary positions: computed, not trained
STAGES = {"base": "pretrain", "mid": "midtrain", "sft": "sft", "rl": "rl"}  # in the names of its folders
Config = dict[str, Any]


def is_reference_folder(folder: Path) -> bool:
    return any(MODEL_FILE.fullmatch(path.name) for path in folder.glob("model_*.pt"))


def read_reference(folder: Path, tokenizer_file: Path | None = None) -> Imported:
    """Return the newest checkpoint in `folder`. Raises NanochatError for what is damaged, or what we cannot compute."""
    step = max(int(match.group(1)) for path in folder.iterdir() if (match := MODEL_FILE.fullmatch(path.name)))
    meta = artifacts.read_json(folder / f"meta_{step:06d}.json")
    config = _config(meta, folder)
    state = _load(folder / f"model_{step:06d}.pt")
    names = tensor_names.to_ours(state, tensor_names.REFERENCE)
    weights = {names[name]: tensor.float().reshape(tensor.shape or (1,)) for name, tensor in state.items()}
    model, notes = _shape(config, weights)
    tokenizer = read_tokenizer(tokenizer_file or _own_tokenizer(folder))
    if tokenizer.vocab_size != config["vocab_size"]:
        raise SpecError(
            f"The model has {config['vocab_size']} tokens, the tokenizer {tokenizer.vocab_size}: they are not of one "
            "run. Give the tokenizer that it was trained with (--tokenizer)."
        )
    weights |= _neutral(model, config["vocab_size"], weights, notes)
    return Imported(
        model=model,
        vocab_size=config["vocab_size"],
        weights=fitted(model, config["vocab_size"], weights, folder),
        tokenizer=tokenizer,
        stage=_stage(folder),
        precision="bf16",  # what it computes in
        step=step,
        metrics={"val_bpb_last": meta["val_bpb"]} if isinstance(meta.get("val_bpb"), float) else {},
        source="reference",
        notes=tuple(notes),
    )


def _config(meta: Config, folder: Path) -> Config:
    """Return the model's configuration; raises ArtifactError where fields are missing."""
    config = meta.get("model_config")
    needed = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    missing = [name for name in needed if not isinstance((config or {}).get(name), int)]
    if missing:
        raise ArtifactError(
            f"The meta file in {folder} has no model_config.{missing[0]}: it is no checkpoint of nanochat."
        )
    return config


def _load(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of torch's, names as before compilation; nothing but tensors is read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of many kinds, for files that are damaged, no tensors, or programs
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} cannot be read as tensors alone: {reason}. Copy it again.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError(f"{path} holds something else than tensors by name: it is no model of nanochat.")
    state = tensor_names.without_compiled(state)
    return {name: tensor for name, tensor in state.items() if name not in TABLES}


def _own_tokenizer(folder: Path) -> Path:
    """Return tokenizer.json beside the checkpoint; raises ArtifactError that says what is needed instead."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise ArtifactError(
            f"{folder} has no {FILE_NAME}. The original keeps its tokenizer as a pickle, which can hold a program and "
            f"is not opened: give --tokenizer {WANTED}."
        )
    return path


def _stage(folder: Path) -> str | None:
    """Return which stage made it, by the names of its folder and of the one above."""
    for path in (folder, folder.parent):
        for name, stage in STAGES.items():
            if name in path.name:
                return stage
    return None


def _shape(config: Config, weights: dict[str, Tensor]) -> tuple[ModelSpec, list[str]]:
    """Return the shape, and what was assumed, a line each. Raises SpecError for windows that ours cannot have."""
    pattern = config.get("window_pattern")
    depth, notes = config["n_layer"], []
    newer = {"residual_scale", "input_scale", "smear_scale", "backout_scale", "smear_gate.weight"} & set(weights)
    newer |= {name for name in weights if "value" in name}
    is_windowed = pattern is not None and "S" in _windows(pattern, depth)
    arch: Arch = "full" if newer or is_windowed else "classic"
    if arch == "classic":
        notes.append("none of the newer tensors is there: read as the plain model of October 2025 (arch classic)")
    model = ModelSpec(
        arch=arch,
        depth=depth,
        n_embd=config["n_embd"],
        n_head=config["n_head"],
        n_kv_head=config["n_kv_head"],
        sequence_len=config["sequence_len"],
    )
    if arch == "full" and not is_windowed and depth > 1:
        if pattern is None:
            notes.append("window_pattern is missing: every layer sees the whole row")
        model = model.model_copy(update={"short_window": model.sequence_len})
    elif arch == "full" and pattern is not None and _windows(pattern, depth) != _windows(FULL_WINDOW_PATTERN, depth):
        raise SpecError(
            f"window_pattern {pattern!r}: this project has {FULL_WINDOW_PATTERN!r} and whole rows ('L') only, so the "
            "model would compute something else."
        )
    return model, notes


def _windows(pattern: str, depth: int) -> str:
    """Return S or L for each layer: the pattern over and over, the last layer L.

    >>> _windows("SSSL", 6)
    'SSSLSL'
    """
    return "".join(pattern.upper()[layer % len(pattern)] for layer in range(depth - 1)) + "L"


def _neutral(model: ModelSpec, vocab_size: int, weights: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Return what the checkpoint lacks, with values that change nothing; a line for each goes to `notes`."""
    if model.arch == "classic":
        return {}
    zeros, layers = torch.zeros, value_embedding_layers(model.depth)
    gate, table = (model.n_kv_head, VALUE_GATE_CHANNELS), (vocab_size, kv_width(model))
    groups: dict[str, dict[str, Tensor]] = {
        "resid_lambdas (1)": {"residual_scale": torch.ones(model.depth)},
        "x0_lambdas (0)": {"input_scale": zeros(model.depth)},
        "value_embeds (0)": {f"value_embeds.{layer}.weight": zeros(table) for layer in layers}
        | {f"blocks.{layer}.attn.value_gate.weight": zeros(gate) for layer in layers},
        "smear_lambda (0)": {"smear_scale": zeros(1), "smear_gate.weight": zeros(1, SMEAR_CHANNELS)},
        "backout_lambda (0)": {"backout_scale": zeros(1)},
    }
    added: dict[str, Tensor] = {}
    for name, tensors in groups.items():
        if not set(tensors) & set(weights):  # where a part of a group is there, `fitted` says what is missing
            notes.append(f"{name.split()[0]} is missing: set to its neutral value {name.split()[1]}")
            added |= tensors
    if added:
        base, gain = BLOCK_SETS["full"].rope_base, BLOCK_SETS["full"].qk_gain
        notes.append(
            f"older than July 2026: assumed are a rotary base of {base:g}, a gain of {gain:g} on queries and keys, and "
            f"short windows of {short_window(model)} tokens"
        )
    return added
