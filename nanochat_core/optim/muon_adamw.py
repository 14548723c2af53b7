"""The optimizer, one class for one rank and many: AdamW for tables and scalars, Muon for matrices.

Over several ranks it is ZeRO-1 (Rajbhandari et al. 2020): each rank keeps the state of its part, gets the summed
gradient of that part alone, updates it and gives it to the others. Gradients set out during the last backward pass, and
parts (optim/parts.py) send and receive while others are computed.
"""

import torch
from torch import Tensor, nn

from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.parts import MatrixPart, Part, ScalarPart, TablePart
from nanochat_core.optim.rates import Rates
from nanochat_core.optim.recipe import RECIPES, Recipe, group_of
from nanochat_core.optim.sharding import OrderedStarts, owners_by_cost

SMALL = 1024  # elements; below, every rank keeps all of it
LAYERS_OF_A_PART = 8  # matrices of one shape that travel and are orthogonalised together


class MuonAdamW:
    """One optimizer for all parameters of a GPT. `pieces` (this rank's state) and `step_count` are its checkpoint."""

    def __init__(self, model: GPT, world: World | None = None, recipe: Recipe | None = None) -> None:
        self.step_count = 0
        self._world = world or World(0, 1, model.device)
        self._parameters = dict(model.named_parameters())
        self._parts = _parts(self._parameters, self._world, recipe or RECIPES[model.spec.arch])
        self._starts = OrderedStarts([(part.start_reduce, part.parameters) for part in self._parts], self._world)

    def expect_last_backward(self) -> None:
        """Let the gradients of the next backward pass set out to their owners as soon as they are there.

        `start_reduction` must come before any other talk between the ranks.
        """
        self._starts.arm()

    def expect_more_backward(self) -> None:
        """Let no gradient set out: the backward passes of this step begin, perhaps for the second time."""
        self._starts.disarm()

    def start_reduction(self) -> None:
        """Let all gradients set out that have not yet; one that this rank does not have counts as zeros."""
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._starts.start_the_rest()

    def step(self, rates: Rates, *, grad_clip: float | None = None) -> float:
        """Update every parameter from the ranks' summed gradients and clear these; return their norm, not clipped."""
        self.step_count += 1
        self.start_reduction()
        self._starts.begin_anew()
        norm = self._clipped_step(rates, grad_clip) if grad_clip else self._pipelined_step(rates)
        for part in self._parts:
            part.finish_gather()
        for parameter in self._parameters.values():
            parameter.grad = None
        return norm

    def _pipelined_step(self, rates: Rates) -> float:
        """Update each part as its gradient arrives, while the others are on their way."""
        squares = []
        for part in self._parts:
            squares.append(part.finish_reduce())
            part.update(rates, self.step_count)
            part.start_gather()
        return self._norm(squares)

    def _clipped_step(self, rates: Rates, grad_clip: float) -> float:
        norm = self._norm([part.finish_reduce() for part in self._parts])
        for part in self._parts:
            if norm > grad_clip:
                part.scale_gradient(grad_clip / (norm + 1e-6))
            part.update(rates, self.step_count)
            part.start_gather()
        return norm

    def _norm(self, squares: list[Tensor]) -> float:
        return float(self._world.sum_(torch.stack(squares).sum()).sqrt())

    def pieces(self) -> dict[str, Tensor]:
        """Return this rank's part of the state: "{parameter}/{slot}@{first row}" -> tensor (a view, not a copy)."""
        return {name: tensor for part in self._parts for name, tensor in part.pieces().items()}

    def load(self, pieces: dict[str, Tensor], step_count: int) -> None:
        """Continue from the pieces of all ranks that saved, however many; raises KeyError where one is missing.

        Gradients that are on their way, of a step that was given up, arrive and are forgotten.
        """
        started = self._starts.begin_anew()
        for part in self._parts[:started] if self._world.size > 1 else []:
            part.finish_reduce()
        for part in self._parts:
            part.load(pieces)
        self.step_count = step_count


def _parts(parameters: dict[str, nn.Parameter], world: World, recipe: Recipe) -> list[Part]:
    """Return the parts in about the order in which a backward pass is done with them: from the head down."""
    tables: dict[str, Part] = {}
    stacks: dict[tuple[int, tuple[int, int]], list[str]] = {}
    for name, parameter in parameters.items():
        group = group_of(name)
        if group == "matrix":
            chunk = int(name.split(".")[1]) // LAYERS_OF_A_PART
            stacks.setdefault((chunk, (parameter.shape[0], parameter.shape[1])), []).append(name)
        else:
            kind = ScalarPart if parameter.numel() < SMALL or parameter.dim() < 2 else TablePart
            tables[name] = kind(name, parameter, group, recipe.group(group), world)
    order = sorted(stacks, reverse=True)
    owners = owners_by_cost([(shape, len(stacks[chunk, shape])) for chunk, shape in order], world.size)
    matrices: list[Part] = [
        MatrixPart({name: parameters[name] for name in stacks[key]}, owner, recipe, world)
        for key, owner in zip(order, owners, strict=True)
    ]
    head = [tables.pop("lm_head.weight")]
    return head + matrices + list(tables.values())
