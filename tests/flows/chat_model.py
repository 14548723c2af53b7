"""Chat models that say what they are told, in a base folder, finished as their stages would leave them.

A model of one layer over bytes whose layer does nothing: its embedding is one-hot, so its head is a table of which
token follows which. It is evaluated, exported and served like any other.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec
from tests.fakes import byte_tokenizer
from tests.nanochat_core.inference.model_folder import write_model_folder

TOKENIZER = byte_tokenizer()
START, END = TOKENIZER.special("<|assistant_start|>"), TOKENIZER.special("<|assistant_end|>")


def shape(sequence_len: int) -> ModelSpec:
    return ModelSpec(depth=1, n_embd=272, n_head=2, n_kv_head=2, sequence_len=sequence_len)


def make_chat_model(
    base: Path,
    letter: str,
    says: str,
    *,
    is_endless: bool = False,
    sequence_len: int = 256,
    made_from: Mapping[str, str] | None = None,
) -> Path:
    """Return the folder of a model that answers everything with `says` (no character twice), endlessly or once.

    `letter` is what its fingerprint consists of; `made_from`: its other inputs, {name: folder below artifacts/}.
    """
    ids = list(says.encode())
    follows = dict(zip([START, *ids], [*ids, ids[0] if is_endless else END], strict=True))
    made, tokenizer_folder = write_model_folder(base / "made", talker(shape(sequence_len), follows), TOKENIZER)
    tokenizer = f"tokenizer/{'0' * 16}"
    if not (base / "artifacts" / tokenizer).exists():
        finish(base, tokenizer_folder, "tokenizer", "0")
    folder = finish(base, made, "sft", letter, {"tokenizer": tokenizer, **(made_from or {})})
    shutil.rmtree(base / "made")
    return folder


def talker(spec: ModelSpec, follows: Mapping[int, int]) -> GPT:
    """Return the model that says follows[i] after token i, and token 0 after all others."""
    model = GPT(spec, TOKENIZER.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.wte.weight.fill_diagonal_(1.0)
        for before, after in follows.items():
            model.lm_head.weight[after, before] = 1.0
    return model


def finish(
    base: Path,
    made: Path,
    stage: str,
    letter: str,
    inputs: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Path:
    """Move a stage's output to its place, and give it its request, result and manifest."""
    folder = base / "artifacts" / stage / (letter * 16)
    folder.parent.mkdir(parents=True, exist_ok=True)
    outputs = [path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()]
    shutil.move(made, folder)
    request = StageRequest(
        stage=stage,
        version=1,
        fingerprint=letter * 64,
        params=dict(params or {}),
        inputs=dict(inputs or {}),
        input_digests={name: digest_of(folder.parents[1] / place) for name, place in (inputs or {}).items()},
    )
    (folder / "spec.json").write_text(json.dumps(request.model_dump()))
    StageFolder(folder).write_result({"val_loss_last": 5.5}, outputs)
    artifacts.finish(StageFolder(folder))
    return folder


def digest_of(folder: Path) -> str:
    manifest = artifacts.read_manifest(folder)
    assert manifest is not None
    return manifest.digest
