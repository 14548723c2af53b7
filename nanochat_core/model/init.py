"""Initial weights of `arch: classic`, from a seed alone: the same on every device and for any number of ranks.

A matrix (out x in) is normal with standard deviation min(1, √(out/in)) / √in (spectral condition, Yang et al. 2023);
the projections back into the residual stream and the head are zero; the embedding is normal with standard deviation 1.
"""

import math

import torch
from torch import nn

from nanochat_core.model.gpt import GPT


@torch.no_grad()
def init_weights(model: GPT, seed: int) -> None:
    """Fill every parameter of `model` in place. Drawn on the CPU in float32, so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            _fill_normal(module.weight, 1.0, generator)
        elif isinstance(module, nn.Linear):
            rows, columns = module.weight.shape
            is_zero = name == "lm_head" or name.endswith("c_proj")
            _fill_normal(
                module.weight, 0.0 if is_zero else min(1.0, math.sqrt(rows / columns)) / math.sqrt(columns), generator
            )


def _fill_normal(weight: nn.Parameter, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * std if std else torch.zeros(weight.shape))
