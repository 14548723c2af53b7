"""The optimizer, one class for one rank and many: AdamW for tables and scalars, Muon for matrices.

Over several ranks it is ZeRO-1 (Rajbhandari et al. 2020): each rank keeps the state of its part, gets the summed
gradient of that part alone, updates it and gives it to the others. Parts (optim/parts.py) send and receive while others
are computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.parts import MatrixPart, Part, ScalarPart, TablePart
from nanochat_core.optim.recipe import RECIPES, Recipe, group_of
from nanochat_core.optim.scaling import rate_width_factor
from nanochat_core.optim.sharding import owners_by_cost
from nanochat_core.specs import OptimizerSpec

SMALL = 1024  # elements; below, every rank keeps all of it


@dataclass(frozen=True)
class Rates:
    """Rates of one step, after schedule, width and batch factor; Muon's momentum and decay."""

    embedding: float
    head: float
    matrix: float
    momentum: float
    value_embedding: float = 0.0
    residual_scale: float = 0.0
    input_scale: float = 0.0
    smear_backout: float = 0.0
    decay: float = 0.0


def rates_at(
    spec: OptimizerSpec,
    n_embd: int,
    multiplier: float,
    momentum: float,
    *,
    decay: float = 0.0,
    batch_factor: float = 1.0,
) -> Rates:
    """Return the rates where the schedule's multiplier is `multiplier`; `batch_factor` spares smear and backout."""
    plain = spec.lr_scale * multiplier
    scale = plain * batch_factor
    table = scale * rate_width_factor(n_embd)
    return Rates(
        embedding=spec.embedding_lr * table,
        head=spec.head_lr * table,
        matrix=spec.matrix_lr * scale,
        momentum=momentum,
        value_embedding=spec.value_embedding_lr * table,
        residual_scale=spec.residual_scale_lr * scale,
        input_scale=spec.input_scale_lr * scale,
        smear_backout=spec.smear_backout_lr * plain,
        decay=decay,
    )


class MuonAdamW:
    """One optimizer for all parameters of a GPT. `pieces` (this rank's state) and `step_count` are its checkpoint."""

    def __init__(self, model: GPT, world: World | None = None, recipe: Recipe | None = None) -> None:
        self.step_count = 0
        self._world = world or World(0, 1, model.device)
        self._parameters = dict(model.named_parameters())
        self._parts = _parts(self._parameters, self._world, recipe or RECIPES[model.spec.arch])

    def step(self, rates: Rates, *, grad_clip: float | None = None) -> float:
        """Update every parameter from the ranks' summed gradients and clear these; return their norm, before clipping.

        A parameter that had no gradient on this rank counts as having one of zeros.
        """
        self.step_count += 1
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for part in self._parts:
            part.start_reduce()
        squares = [part.finish_reduce() for part in self._parts]
        norm = float(self._world.sum_(torch.stack(squares).sum()).sqrt())
        for part in self._parts:
            if grad_clip and norm > grad_clip:
                part.scale_gradient(grad_clip / (norm + 1e-6))
            part.update(rates, self.step_count)
            part.start_gather()
        for part in self._parts:
            part.finish_gather()
        for parameter in self._parameters.values():
            parameter.grad = None
        return norm

    def pieces(self) -> dict[str, Tensor]:
        """Return this rank's part of the state: "{parameter}/{slot}@{first row}" -> tensor (a view, not a copy)."""
        return {name: tensor for part in self._parts for name, tensor in part.pieces().items()}

    def load(self, pieces: dict[str, Tensor], step_count: int) -> None:
        """Continue from the pieces of all ranks that saved, however many; raises KeyError where one is missing."""
        for part in self._parts:
            part.load(pieces)
        self.step_count = step_count


def _parts(parameters: dict[str, torch.nn.Parameter], world: World, recipe: Recipe) -> list[Part]:
    """Return the parts, the costly ones first: the rest travels while they are computed."""
    shapes: dict[tuple[int, int], list[str]] = {}
    others: list[Part] = []
    for name, parameter in parameters.items():
        group = group_of(name)
        if group == "matrix":
            shapes.setdefault((parameter.shape[0], parameter.shape[1]), []).append(name)
        elif parameter.numel() < SMALL or parameter.dim() < 2:
            others.append(ScalarPart(name, parameter, group, recipe.group(group), world))
        else:
            others.append(TablePart(name, parameter, group, recipe.group(group), world))
    owners = owners_by_cost({shape: len(names) for shape, names in shapes.items()}, world.size)
    matrices: list[Part] = [
        MatrixPart({name: parameters[name] for name in names}, owners[shape], recipe, world)
        for shape, names in sorted(shapes.items(), reverse=True)
    ]
    return matrices + others
