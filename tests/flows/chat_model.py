"""A chat model with random weights in a base folder, finished as its stage would leave it: enough to be served."""

import json
import shutil
from pathlib import Path

import torch

from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import ModelSpec
from tests.fakes import byte_tokenizer
from tests.nanochat_core.inference.model_folder import write_model_folder


def make_chat_model(base: Path, letter: str, *, sequence_len: int = 256, seed: int = 0) -> Path:
    """Return the folder of a model of one layer over bytes; `letter` is what its fingerprint consists of."""
    spec = ModelSpec(depth=1, n_embd=32, n_head=2, n_kv_head=2, sequence_len=sequence_len)
    tokenizer = byte_tokenizer()
    model = GPT(spec, tokenizer.vocab_size)
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # as initialised the head is zero; now it says printable ASCII, and never ends by itself
        model.lm_head.weight[32:127].normal_(generator=generator)
    made, tokenizer_folder = write_model_folder(base / "made", model, tokenizer)
    finish(base, tokenizer_folder, "tokenizer", letter, {})
    folder = finish(base, made, "sft", letter, {"tokenizer": f"tokenizer/{letter * 16}"})
    shutil.rmtree(base / "made")
    return folder


def finish(base: Path, made: Path, stage: str, letter: str, inputs: dict[str, str]) -> Path:
    """Move a stage's output to its place, and give it its request, result and manifest."""
    folder = base / "artifacts" / stage / (letter * 16)
    folder.parent.mkdir(parents=True, exist_ok=True)
    outputs = [path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()]
    shutil.move(made, folder)
    request = StageRequest(
        stage=stage,
        version=1,
        fingerprint=letter * 64,
        params={},
        inputs=inputs,
        input_digests={name: digest_of(folder.parents[1] / place) for name, place in inputs.items()},
    )
    (folder / "spec.json").write_text(json.dumps(request.model_dump()))
    StageFolder(folder).write_result({"val_loss_last": 5.5}, outputs)
    artifacts.finish(StageFolder(folder))
    return folder


def digest_of(folder: Path) -> str:
    manifest = artifacts.read_manifest(folder)
    assert manifest is not None
    return manifest.digest
