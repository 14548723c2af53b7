"""Validation: bits per byte of text, and loss on held-out conversations.

bpb = Σ nats / (ln 2 · Σ bytes) over the targets that have bytes (special tokens have none), so that models with other
tokenizers can be compared.
"""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nanochat_core import checkpoint
from nanochat_core.data.loader import stream_rows
from nanochat_core.data.shards import TextShards
from nanochat_core.device import arithmetic
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import IGNORED, token_nll
from nanochat_core.specs import Precision
from nanochat_core.tokenizer.bpe import Tokenizer


@torch.no_grad()
def bits_per_byte(
    model: GPT, rows: Tensor, token_bytes: Tensor, world: World, *, batch_rows: int, precision: Precision = "fp32"
) -> float:
    """Return the bpb of `model` on `rows` (n, T + 1), int64; `token_bytes` (V,) is the length of each token.

    The ranks share the rows; all return the same number.
    """
    sums = torch.zeros(2, dtype=world.sum_dtype, device=world.device)
    own = rows[world.rank :: world.size]
    for first in range(0, len(own), batch_rows):
        batch = own[first : first + batch_rows].to(world.device)
        idx, targets = batch[:, :-1], batch[:, 1:]
        sizes = token_bytes[targets]
        with arithmetic(world.device, precision):
            losses = token_nll(model, idx, targets)
        sums += torch.stack([(losses * (sizes > 0)).sum(dtype=world.sum_dtype), sizes.sum(dtype=world.sum_dtype)])
    nats, size = world.sum_(sums).tolist()
    return nats / (math.log(2) * size)


@torch.no_grad()
def conversation_loss(model: GPT, batches: list[tuple[Tensor, Tensor]], world: World, precision: Precision) -> float:
    """Return the mean loss in nats over the learned tokens of this rank's and all other ranks' `batches`."""
    sums = torch.zeros(2, dtype=world.sum_dtype, device=world.device)
    for idx, targets in batches:
        with arithmetic(world.device, precision):
            losses = token_nll(model, idx.to(world.device), targets.to(world.device))
        sums += torch.stack([losses.sum(dtype=world.sum_dtype), (targets != IGNORED).sum().to(sums)])
    nats, count = world.sum_(sums).tolist()
    return nats / max(count, 1.0)


def measure_bpb(
    model_folder: Path,
    tokenizer_folder: Path,
    text_folder: Path,
    split: Literal["train", "validation"],
    *,
    max_tokens: int,
    world: World,
) -> float:
    """Return the bpb of a finished stage's model on the first `max_tokens` tokens of a split of the text shards."""
    tokenizer = Tokenizer.load(tokenizer_folder)
    model, meta = checkpoint.load_model(model_folder, tokenizer_hash=tokenizer.hash, device=world.device)
    shards = TextShards.open(text_folder)
    paths = shards.train if split == "train" else [shards.validation]
    rows = stream_rows(paths, tokenizer, sequence_len=meta.model.sequence_len, max_tokens=max_tokens)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(world.device)
    return bits_per_byte(model, rows, token_bytes, world, batch_rows=32, precision=meta.precision)
