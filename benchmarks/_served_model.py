"""A model to be served, with random weights, as a finished stage leaves it: speed does not depend on what was learned.

The weights are away from zero, so that no part of the model is without effect, and the special tokens are never the
likeliest, so that no greedy answer ends before its time. The vocabulary is made up: bytes, and letters in twos, threes
and fours.
"""

import itertools
import string
from pathlib import Path

import torch

from nanochat_core import checkpoint
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.conversion.exporting import export
from nanochat_core.distributed import World
from nanochat_core.model.accounting import derive_shape
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import ModelSpec, Precision
from nanochat_core.tokenizer.bpe import Tokenizer

NOISE = 0.05


def write_model(folder: Path, model: ModelSpec, vocab_size: int, precision: Precision) -> None:
    """Write `folder`/model and `folder`/tokenizer, the widths of the model derived from its depth.

    What transformers knows by itself, a `classic` model, is exported to `folder`/exported too.
    """
    gpt = GPT(derive_shape(model), vocab_size)
    init_weights(gpt, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE)
        gpt.lm_head.weight[vocab_size - len(SPECIAL_TOKENS) :] = 0  # logits of 0, among thousands of both signs
    tokenizer = made_up_tokenizer(vocab_size)
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    meta = CheckpointMeta(
        stage="sft",
        step=0,
        tokens=0,
        optimizer_steps=0,
        model=gpt.spec,
        vocab_size=vocab_size,
        precision=precision,
        tokenizer_hash=tokenizer.hash,
        data_digest="none",
    )
    whole = Checkpoint(meta=meta, model=gpt.state_dict(), optimizer={}, loader={})
    checkpoint.save(folder / "model" / "checkpoints", whole, World(0, 1, torch.device("cpu")), keep=1)
    if model.arch == "classic":
        export(folder / "model", folder / "tokenizer", folder / "exported", is_checked=False)


def made_up_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a tokenizer of exactly `vocab_size` ids."""
    merged = vocab_size - len(SPECIAL_TOKENS)
    words = (
        "".join(letters).encode()
        for length in (2, 3, 4)
        for letters in itertools.product(string.ascii_lowercase, repeat=length)
    )
    tokens = [*(bytes([value]) for value in range(256)), *itertools.islice(words, merged - 256)]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return Tokenizer.from_ranks(ranks, {name: merged + index for index, name in enumerate(SPECIAL_TOKENS)})
