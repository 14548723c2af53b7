"""Validation: bits per byte of text, and loss on held-out conversations.

bpb = Σ nats / (ln 2 · Σ bytes) over the targets that have bytes (special tokens have none), so that models with other
tokenizers can be compared.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nanochat_core import checkpoint
from nanochat_core.data.shards import TextShards
from nanochat_core.data.validation_rows import validation_rows
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import IGNORED, token_nll
from nanochat_core.specs import PACKING
from nanochat_core.tokenizer.bpe import Tokenizer

FIRST_BUCKET = 256  # positions


def bits_per_byte(model: GPT, rows: Tensor, token_bytes: Tensor, world: World, *, batch_rows: int) -> float:
    """Return the bpb of `model` on `rows` (n, T + 1), int64; `token_bytes` (V,) is the length of each token.

    The ranks share the rows; all return the same number.
    """
    batches = row_batches(rows, world, batch_rows=batch_rows)
    return held_out_losses(model, batches, token_bytes, world)["val/bpb"]


def row_batches(rows: Tensor, world: World, *, batch_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (idx, targets), each (B, T), of this rank's share of `rows` (n, T + 1)."""
    own = rows[world.rank :: world.size]
    for first in range(0, len(own), batch_rows):
        batch = own[first : first + batch_rows]
        yield batch[:, :-1], batch[:, 1:]


@torch.no_grad()
def held_out_losses(
    model: GPT,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: Tensor,
    world: World,
    *,
    positions: int = 0,
) -> dict[str, float]:
    """Return {"val/loss": mean nats of the learned tokens, "val/bpb": their bits per byte} over all ranks' batches.

    A batch is (idx, targets), each (B, T) int64; targets that are not learned are IGNORED. No bpb where nothing that is
    learned has bytes. With `positions`, the largest T, also the bpb of each bucket of positions in a row.
    """
    sums = torch.zeros(4, max(1, positions), dtype=world.sum_dtype, device=world.device)
    for idx, targets in batches:
        idx, targets = idx.to(world.device), targets.to(world.device)
        is_learned = targets != IGNORED
        sizes = token_bytes[targets.clamp(min=0)] * is_learned
        losses = token_nll(model, idx, targets)
        parts = (losses * (sizes > 0), sizes, losses, is_learned)
        columns = torch.stack([part.sum(dim=0, dtype=world.sum_dtype) for part in parts])  # (4, T)
        sums[:, : columns.size(1) if positions else 1] += columns if positions else columns.sum(dim=1, keepdim=True)
    nats_of_bytes, size, nats, count = world.sum_(sums).cpu()
    found = {"val/loss": float(nats.sum()) / max(float(count.sum()), 1.0)}
    found |= bits_of_buckets("val/bpb", nats_of_bytes, size, [0])
    buckets = position_buckets(positions)
    return found | (bits_of_buckets("val/bpb_at_{}", nats_of_bytes, size, buckets) if len(buckets) > 1 else {})


def position_buckets(length: int) -> list[int]:
    """Return where each bucket of the positions in a row of `length` tokens begins: at 0, 256, and each power of two.

    >>> position_buckets(2048), position_buckets(1500)
    ([0, 256, 512, 1024], [0, 256, 512, 1024])
    """
    firsts = [0]
    while (following := max(FIRST_BUCKET, 2 * firsts[-1])) < length:
        firsts.append(following)
    return firsts


def bits_of_buckets(name: str, nats: Tensor, sizes: Tensor, firsts: Sequence[int]) -> dict[str, float]:
    """Return the bits per byte of each bucket by `name`, filled in with its first position.

    `nats` and `sizes` in bytes are sums by position, (T,) each. A bucket without bytes is left out.

    >>> nats, sizes = torch.tensor([1.0, 2.0, 2.0]).double() * math.log(2), torch.tensor([2, 1, 3])
    >>> bits_of_buckets("at {}", nats, sizes, [0, 1])
    {'at 0': 0.5, 'at 1': 1.0}
    """
    ends = [*firsts[1:], len(nats)]
    sums = {
        name.format(first): (float(nats[first:end].sum()), float(sizes[first:end].sum()))
        for first, end in zip(firsts, ends, strict=True)
    }
    return {key: bits / (math.log(2) * size) for key, (bits, size) in sums.items() if size}


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
    rows = validation_rows(
        paths,
        tokenizer,
        sequence_len=meta.model.sequence_len,
        max_tokens=max_tokens,
        packing=PACKING[meta.model.arch],
    )
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(world.device)
    return bits_per_byte(model, rows, token_bytes, world, batch_rows=32)
