"""A checkpoint folder in the layout of the original nanochat, written from a model of ours."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_core.conversion import tensor_names
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer

STEP = 123


def state_of(model: GPT) -> dict[str, Tensor]:
    """Return the model's tensors by the original's names; its tables of tokens are kept in bfloat16 there."""
    names = tensor_names.to_theirs(model.state_dict(), tensor_names.REFERENCE)
    return {names[name]: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def write_reference(
    folder: Path, model: GPT, state: Mapping[str, Any], *, prefix: str = "", step: int = STEP, **config: Any
) -> Path:
    """Write the two files that count, and the optimizer's, which does not."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = model.spec
    known = {"sequence_len": spec.sequence_len, "vocab_size": model.vocab_size, "n_layer": spec.depth}
    known |= {"n_head": spec.n_head, "n_kv_head": spec.n_kv_head, "n_embd": spec.n_embd}
    torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / f"model_{step:06d}.pt")
    (folder / f"meta_{step:06d}.json").write_text(json.dumps({"step": step, "model_config": known | config}))
    (folder / f"optim_{step:06d}_rank0.pt").write_bytes(b"not read")
    return folder


def write_ranks(path: Path, tokenizer: Tokenizer) -> Path:
    """Write tiktoken's file of ranks."""
    count = tokenizer.vocab_size - len(tokenizer.special_ids)
    lines = [base64.b64encode(tokenizer.decode_bytes([rank])) + f" {rank}\n".encode() for rank in range(count)]
    path.write_bytes(b"".join(lines))
    return path
