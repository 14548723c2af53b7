"""A model of each arch after a few real optimizer steps, as a finished stage's artifact with its tokenizer's."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from nanochat_core import artifacts, checkpoint
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import rates_at
from nanochat_core.specs import Arch, ModelSpec, OptimizerSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from tests.nanochat_core.stages.stage_folders import documents

CPU = torch.device("cpu")
VOCAB_SIZE, WIDTH, STEPS = 300, 80, 12
ARCHES: tuple[Arch, ...] = ("classic", "full")


def shape(arch: Arch) -> ModelSpec:
    """Windows shorter than a row, shared key/value heads, an odd vocabulary: padded tables have 320 rows, as W_1."""
    spec = ModelSpec(arch=arch, depth=3, n_embd=WIDTH, n_head=4, n_kv_head=2, sequence_len=64)
    return spec.model_copy(update={"short_window": 8} if arch == "full" else {})


def trained(arch: Arch) -> GPT:
    """Return a model none of whose parameters is where it began, and that says other things in other contexts."""
    model = GPT(shape(arch), VOCAB_SIZE)
    init_weights(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "lm_head.weight" or not parameter.any():  # else a few steps would not get far from zero
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    optimizer = MuonAdamW(model, World(0, 1, CPU))
    for _ in range(STEPS):
        idx = torch.randint(VOCAB_SIZE, (4, 17), generator=generator)
        loss = F.cross_entropy(model(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
        optimizer.expect_last_backward()
        loss.backward()
        optimizer.start_reduction()
        optimizer.step(rates_at(OptimizerSpec(lr_scale=0.1), model.spec.n_embd, 1.0, 0.9))
    return model.eval()


@dataclass(frozen=True)
class Artifact:
    """What a stage has left, in a base folder of its own."""

    model: GPT
    tokenizer: Tokenizer
    base: Path
    folder: Path
    tokenizer_folder: Path


def write_artifact(base: Path, arch: Arch) -> Artifact:
    """Train a model and leave it below `base` as the SFT stage does."""
    root = base / "artifacts"
    tokenizer = Tokenizer.train(documents(300, 1), VOCAB_SIZE)
    tokenizer_folder, folder = root / "tokenizer" / "00112233aabbccdd", root / "sft" / "0123456789abcdef"
    tokenizer_folder.mkdir(parents=True)
    tokenizer.save(tokenizer_folder)
    digest = finish(tokenizer_folder, "tokenizer", {"vocab_size": VOCAB_SIZE}, {}, ["tokenizer.json"])
    model = trained(arch)
    meta = CheckpointMeta(
        stage="sft",
        step=STEPS,
        tokens=64 * STEPS,
        optimizer_steps=STEPS,
        model=model.spec,
        vocab_size=VOCAB_SIZE,
        precision="fp32",
        tokenizer_hash=tokenizer.hash,
        data_digest="none",
    )
    whole = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
    path = checkpoint.save(folder / "checkpoints", whole, World(0, 1, CPU), keep=1)
    names = [f"checkpoints/{path.name}/{name}" for name in ("meta.json", "model.safetensors")]
    finish(folder, "sft", {}, {"tokenizer": ("tokenizer/00112233aabbccdd", digest)}, names)
    return Artifact(model, tokenizer, base, folder, tokenizer_folder)


def finish(
    folder: Path, stage: str, params: dict[str, object], inputs: dict[str, tuple[str, str]], outputs: list[str]
) -> str:
    """Give a folder what makes it a finished stage; return its digest."""
    request = StageRequest(
        stage=stage,
        version=1,
        fingerprint=folder.name,
        params=params,
        inputs={name: place for name, (place, _) in inputs.items()},
        input_digests={name: digest for name, (_, digest) in inputs.items()},
    )
    artifacts.write_json(folder / "spec.json", request.model_dump())
    opened = StageFolder(folder)
    opened.write_result({"val_loss_last": 1.25} if stage == "sft" else {}, outputs)
    return artifacts.finish(opened, git_commit="abc1234").digest
