"""The smallest model that the real engine can serve, of random weights, but with tastes of its own."""

from pathlib import Path

import torch

from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import ModelSpec
from tests.fakes import byte_tokenizer
from tests.nanochat_core.inference.model_folder import write_model_folder


def write_tiny_model(root: Path) -> tuple[Path, Path]:
    """Write a model below `root`; return its folder and its tokenizer's."""
    spec = ModelSpec(arch="full", depth=2, n_embd=32, n_head=2, n_kv_head=1, sequence_len=256)
    tokenizer = byte_tokenizer()
    model = GPT(spec, tokenizer.vocab_size)
    init_weights(model, 7)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() or parameter is model.lm_head.weight:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return write_model_folder(root, model, tokenizer)
