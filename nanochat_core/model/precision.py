"""How a model computes while it is trained: dtypes, FP8, and what attends. Chosen once, and said in the log.

Matrices keep float32 weights and are cast at each use. On CUDA in 16 bits the tables (embedding, value embeddings) are
stored in bfloat16, and so are their moments: they are read by rows and never multiplied. FP8 is for training alone;
validation and samples compute in bfloat16.
"""

from collections.abc import Iterator

import torch

from nanochat_core.device import compute_dtype
from nanochat_core.errors import SpecError
from nanochat_core.model.attention import choose_attention
from nanochat_core.model.fp8 import Fp8Weight, qualifies_for_fp8, why_not_fp8
from nanochat_core.model.gpt import GPT, Linear
from nanochat_core.specs import Precision


def prepare_training(model: GPT, precision: Precision) -> list[str]:
    """Have `model` train in `precision` on the device where it is; return what was chosen and why, one line each.

    Raises SpecError where the device does not compute in FP8.
    """
    model.compute_dtype = compute_dtype(precision)
    if model.device.type == "cuda" and model.compute_dtype != torch.float32:
        for table in (model.wte, *getattr(model, "value_embeds", {}).values()):
            table.to(model.compute_dtype)
    chosen = [f"precision: {precision}, on {model.device}"]
    if precision == "fp8":
        if reason := why_not_fp8(model.device):
            raise SpecError(f"pretrain.precision: 'fp8' cannot be used, {reason}; use 'bf16'.")
        chosen[0] += f", in {use_fp8(model)} of {sum(1 for _ in _linears(model))} linear layers"
    backend = choose_attention(model.device, model.compute_dtype, model.spec.n_embd // model.spec.n_head)
    for block in model.blocks:
        block.attn.attend = backend.attend
    model.rotary(model.spec.sequence_len)  # made here, or a compiled model would be traced once without it
    windows = {block.attn.window for block in model.blocks}
    backend.prepare(model.spec.sequence_len, windows, model.device)
    return [*chosen, f"attention: {backend.name} ({backend.reason})"]


def use_fp8(model: GPT) -> int:
    """Have the linear layers of the blocks that qualify compute in FP8 while training; return how many those are.

    The head stays out: its product is part of the loss (model/loss.py).
    """
    count = 0
    for linear in _linears(model):
        if qualifies_for_fp8(*linear.weight.shape):
            linear.fp8 = Fp8Weight(linear.weight)
            count += 1
    return count


def refresh_fp8(model: GPT) -> None:
    """Have the FP8 copies follow the weights; to be called before the forward passes of a step."""
    for linear in _linears(model):
        if linear.fp8 is not None:
            linear.fp8.refresh(linear.weight)


def _linears(model: GPT) -> Iterator[Linear]:
    return (module for module in model.blocks.modules() if isinstance(module, Linear))
