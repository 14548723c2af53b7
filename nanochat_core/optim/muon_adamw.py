"""The optimizer of `arch: classic`: AdamW for embedding and head, Muon for every matrix inside the blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.model.gpt import GPT
from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.muon import muon_step
from nanochat_core.optim.scaling import rate_width_factor
from nanochat_core.specs import OptimizerSpec


@dataclass(frozen=True)
class Rates:
    """Rates of one step, after schedule and width factor, and Muon's momentum."""

    embedding: float
    head: float
    matrix: float
    momentum: float


def rates_at(spec: OptimizerSpec, n_embd: int, multiplier: float, momentum: float) -> Rates:
    """Return the rates where the schedule's multiplier is `multiplier`."""
    scale = spec.lr_scale * multiplier
    factor = scale * rate_width_factor(n_embd)
    return Rates(spec.embedding_lr * factor, spec.head_lr * factor, spec.matrix_lr * scale, momentum)


class MuonAdamW:
    """One optimizer for all parameters of a GPT. `state` (name to tensor) and `step_count` are its checkpoint."""

    def __init__(self, model: GPT) -> None:
        self.step_count = 0
        self.orthogonalize_dtype = torch.bfloat16 if model.device.type == "cuda" else torch.float32
        self._tables = {"embedding": model.wte.weight, "head": model.lm_head.weight}
        self._matrices: dict[str, list[Tensor]] = {}
        for parameter in model.blocks.parameters():
            rows, columns = parameter.shape
            self._matrices.setdefault(f"{rows}x{columns}", []).append(parameter)
        self.state: dict[str, Tensor] = {}
        for name, table in self._tables.items():
            self.state[f"{name}.m"] = torch.zeros_like(table)
            self.state[f"{name}.v"] = torch.zeros_like(table)
        for shape, weights in self._matrices.items():
            self.state[f"muon.{shape}"] = torch.zeros(len(weights), *weights[0].shape, device=model.device)

    def step(self, rates: Rates) -> None:
        """Update every parameter from its gradient."""
        self.step_count += 1
        for name, table in self._tables.items():
            m, v = self.state[f"{name}.m"], self.state[f"{name}.v"]
            adamw_step(table, table.grad, m, v, step=self.step_count, lr=getattr(rates, name))
        for shape, weights in self._matrices.items():
            muon_step(
                weights,
                [weight.grad for weight in weights],
                self.state[f"muon.{shape}"],
                lr=rates.matrix,
                mu=rates.momentum,
                dtype=self.orthogonalize_dtype,
            )

    def load(self, state: dict[str, Tensor], step_count: int) -> None:
        """Continue from a checkpoint's state; raises KeyError where it is another model's."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.step_count = step_count
