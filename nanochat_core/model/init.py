"""Initial weights, from a seed alone: the same on every device and for any number of ranks.

`classic`: a matrix (out x in) is normal with standard deviation min(1, √(out/in)) / √in (spectral condition, Yang et
al. 2023), the embedding normal with standard deviation 1, the head zero. `full`: uniform matrices, in each its own
standard deviation (nanochat, July 2026). In both, the projections back into the residual stream are zero.
"""

import math

import torch
from torch import Tensor, nn

from nanochat_core.model.gpt import GPT

BACKOUT = 0.2
GATE_BOUND = 0.02
HEAD_STD, EMBEDDING_STD, MLP_FACTOR = 0.001, 0.8, 0.4  # of `full`


@torch.no_grad()
def init_weights(model: GPT, seed: int) -> None:
    """Fill every parameter of `model` in place. Drawn on the CPU in float32, so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    fill = _fill_classic if model.spec.arch == "classic" else _fill_full
    for name, parameter in model.named_parameters():
        fill(model, name, parameter, generator)


def _fill_classic(model: GPT, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name == "wte.weight":
        _fill_normal(parameter, 1.0, generator)
    elif name == "lm_head.weight" or name.endswith("c_proj.weight"):
        parameter.zero_()
    else:
        rows, columns = parameter.shape
        _fill_normal(parameter, min(1.0, math.sqrt(rows / columns)) / math.sqrt(columns), generator)


def _fill_full(model: GPT, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    std, share = model.spec.n_embd**-0.5, torch.linspace(0, 1, model.spec.depth)
    if name == "wte.weight":
        _fill_normal(parameter, EMBEDDING_STD, generator)
    elif name == "lm_head.weight":
        _fill_normal(parameter, HEAD_STD, generator)
    elif name == "residual_scale":
        parameter.copy_(1.15 - 0.10 * share)
    elif name == "input_scale":
        parameter.copy_(0.20 - 0.15 * share)
    elif name == "backout_scale":
        parameter.fill_(BACKOUT)
    elif name == "smear_scale" or name.endswith("c_proj.weight"):
        parameter.zero_()
    elif name.endswith("gate.weight"):
        parameter.copy_(torch.rand(parameter.shape, generator=generator) * GATE_BOUND)
    else:
        _fill_uniform(parameter, MLP_FACTOR * std if name.endswith("c_fc.weight") else std, generator)


def _fill_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def _fill_uniform(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with a uniform distribution of the given standard deviation: its bound is √3 of it."""
    weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * (math.sqrt(3) * std))
