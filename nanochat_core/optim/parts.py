"""The parts of `MuonAdamW`: parameters that travel and are updated together.

Each part goes through the same five moves in a step: start_reduce, finish_reduce, update, start_gather, finish_gather.
With one rank nothing travels. A piece of state is called "{parameter}/{slot}@{first row}".
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from nanochat_core.distributed import World
from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.muon import apply_update, muon_update, variance_shape
from nanochat_core.optim.rates import Rates
from nanochat_core.optim.recipe import AdamWGroup, Group, Recipe
from nanochat_core.optim.sharding import Wait, padded_rows, start_all_gather, start_reduce_scatter


class Part(Protocol):
    """Some parameters, this rank's state for them, and their moves."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    def start_reduce(self) -> None:
        """Begin to sum the ranks' gradients."""
        ...

    def finish_reduce(self) -> Tensor:
        """Have the summed gradient of what this rank keeps; return the sum of its squares (float32 scalar)."""
        ...

    def scale_gradient(self, factor: float) -> None: ...

    def update(self, rates: Rates, step: int) -> None:
        """Update state and weights that this rank keeps."""
        ...

    def start_gather(self) -> None:
        """Begin to give the updated weights to the other ranks, and to take theirs."""
        ...

    def finish_gather(self) -> None: ...

    def pieces(self) -> dict[str, Tensor]: ...

    def load(self, pieces: dict[str, Tensor]) -> None: ...


def _squares(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32).square()


def _joined(pieces: dict[str, Tensor], name: str) -> Tensor:
    """Return the whole tensor of which there are pieces "{name}@{first row}"; raises KeyError where there are none."""
    rows = sorted((int(key.rpartition("@")[2]), key) for key in pieces if key.startswith(f"{name}@"))
    if not rows:
        raise KeyError(name)
    return torch.cat([pieces[key] for _, key in rows]) if len(rows) > 1 else pieces[rows[0][1]]


class ScalarPart:
    """A small parameter under AdamW: every rank keeps all of it and computes the same."""

    def __init__(self, name: str, parameter: nn.Parameter, group: Group, constants: AdamWGroup, world: World) -> None:
        self._name, self._parameter, self._group, self._constants = name, parameter, group, constants
        self._world = world
        self._m, self._v = torch.zeros_like(parameter.detach()), torch.zeros_like(parameter.detach())
        self.parameters = [parameter]
        self._gradient = torch.empty(0)

    def start_reduce(self) -> None:
        self._gradient = self._world.sum_(self._parameter.grad.clone())  # of its own: the pass may be made again

    def finish_reduce(self) -> Tensor:
        return _squares(self._gradient) / self._world.size

    def scale_gradient(self, factor: float) -> None:
        self._gradient.mul_(factor)

    def update(self, rates: Rates, step: int) -> None:
        lr = getattr(rates, self._group)
        adamw_step(self._parameter, self._gradient, self._m, self._v, step=step, lr=lr, group=self._constants)

    def start_gather(self) -> None:
        pass

    def finish_gather(self) -> None:
        pass

    def pieces(self) -> dict[str, Tensor]:
        if not self._world.is_main:
            return {}
        return {f"{self._name}/m@0": self._m, f"{self._name}/v@0": self._v}

    def load(self, pieces: dict[str, Tensor]) -> None:
        self._m.copy_(pieces[f"{self._name}/m@0"])
        self._v.copy_(pieces[f"{self._name}/v@0"])


class TablePart:
    """A table (V, n) under AdamW: each rank keeps the moments of a block of rows, the last block filled up."""

    def __init__(self, name: str, parameter: nn.Parameter, group: Group, constants: AdamWGroup, world: World) -> None:
        self._name, self._parameter, self._group, self._constants = name, parameter, group, constants
        self._world = world
        self.parameters = [parameter]
        self._block = -(-parameter.size(0) // world.size)
        self._first = min(world.rank * self._block, parameter.size(0))
        self._own = parameter.detach()[self._first : self._first + self._block]  # a view: updated in place
        self._m, self._v = torch.zeros_like(self._own), torch.zeros_like(self._own)
        self._gradient = torch.empty(0)
        self._gathered = torch.empty(0)
        self._wait: Wait = lambda: None

    def start_reduce(self) -> None:
        gradient = self._parameter.grad
        if self._world.size == 1:
            self._gradient = gradient
            return
        self._gradient = gradient.new_empty(self._block, *gradient.shape[1:])
        self._wait = start_reduce_scatter(self._gradient, padded_rows(gradient, self._block * self._world.size))

    def finish_reduce(self) -> Tensor:
        self._wait()
        self._gradient = self._gradient[: len(self._own)]
        return _squares(self._gradient)

    def scale_gradient(self, factor: float) -> None:
        self._gradient.mul_(factor)

    def update(self, rates: Rates, step: int) -> None:
        if len(self._own):
            lr = getattr(rates, self._group)
            adamw_step(self._own, self._gradient, self._m, self._v, step=step, lr=lr, group=self._constants)
        self._gradient = torch.empty(0)
        self._parameter.grad = None  # memory for the parts to come

    def start_gather(self) -> None:
        if self._world.size == 1:
            return
        self._gathered = self._own.new_empty(self._block * self._world.size, *self._own.shape[1:])
        self._wait = start_all_gather(self._gathered, padded_rows(self._own, self._block))

    def finish_gather(self) -> None:
        self._wait()
        if self._world.size > 1:
            self._parameter.detach().copy_(self._gathered[: self._parameter.size(0)])
            self._gathered = torch.empty(0)

    def pieces(self) -> dict[str, Tensor]:
        if not len(self._own):
            return {}
        return {f"{self._name}/m@{self._first}": self._m, f"{self._name}/v@{self._first}": self._v}

    def load(self, pieces: dict[str, Tensor]) -> None:
        for slot, own in (("m", self._m), ("v", self._v)):
            whole = _joined(pieces, f"{self._name}/{slot}")
            own.copy_(whole[self._first : self._first + len(own)])


class MatrixPart:
    """The matrices of one shape under Muon: each rank keeps the state of whole matrices, and orthogonalises those."""

    def __init__(self, parameters: dict[str, nn.Parameter], owners: list[int], recipe: Recipe, world: World) -> None:
        self._recipe, self._world = recipe, world
        self.parameters = list(parameters.values())
        self._by_rank = [
            [name for name, owner in zip(parameters, owners, strict=True) if owner == rank]
            for rank in range(world.size)
        ]
        self._parameters, self._names = parameters, self._by_rank[world.rank]
        self._slots = max(map(len, self._by_rank))  # matrices that travel for each rank
        first = next(iter(parameters.values()))
        rows, columns = first.shape
        device = first.device
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._momentum = torch.zeros(len(self._names), rows, columns, device=device)
        self._variance = None
        if recipe.variance_beta is not None:
            self._variance = torch.zeros(len(self._names), *variance_shape(rows, columns), device=device)
        self._gradient = torch.empty(0)
        self._gathered = torch.empty(0)
        self._wait: Wait = lambda: None

    def _stacked(self, names: list[str], *, of_gradients: bool) -> Tensor:
        """Return gradients or weights of the matrices called `names`, (slots, m, n), zeros behind."""
        tensors = [self._parameters[name] for name in names]
        if of_gradients:
            tensors = [tensor.grad for tensor in tensors]
        empty = self._momentum.new_zeros(self._momentum.shape[1:])
        return torch.stack([*(tensor.detach() for tensor in tensors), *[empty] * (self._slots - len(names))])

    def start_reduce(self) -> None:
        if self._world.size == 1:
            return  # stacked when its turn comes: a second copy of all gradients would take their memory again
        stacks = [self._stacked(names, of_gradients=True) for names in self._by_rank]
        self._gradient = torch.empty_like(stacks[0])
        self._wait = start_reduce_scatter(self._gradient, torch.cat(stacks))

    def finish_reduce(self) -> Tensor:
        self._wait()
        if self._world.size == 1:
            self._gradient = self._stacked(self._names, of_gradients=True)
            for parameter in self.parameters:
                parameter.grad = None
        self._gradient = self._gradient[: len(self._names)]
        return _squares(self._gradient)

    def scale_gradient(self, factor: float) -> None:
        self._gradient.mul_(factor)

    def update(self, rates: Rates, step: int) -> None:
        if not self._names:
            return
        updates = muon_update(
            self._gradient, self._momentum, self._variance, self._recipe, mu=rates.momentum, dtype=self._dtype
        )
        for name, update in zip(self._names, updates, strict=True):
            apply_update(
                self._parameters[name].detach(),
                update,
                lr=rates.matrix,
                decay=rates.decay,
                cautious=self._recipe.cautious,
            )
        self._gradient = torch.empty(0)

    def start_gather(self) -> None:
        if self._world.size == 1:
            return
        own = self._stacked(self._names, of_gradients=False)
        self._gathered = own.new_empty(self._world.size * self._slots, *own.shape[1:])
        self._wait = start_all_gather(self._gathered, own)

    def finish_gather(self) -> None:
        self._wait()
        if self._world.size == 1:
            return
        for rank, names in enumerate(self._by_rank):
            for slot, name in enumerate(names):
                self._parameters[name].detach().copy_(self._gathered[rank * self._slots + slot])
        self._gathered = torch.empty(0)

    def pieces(self) -> dict[str, Tensor]:
        found = {f"{name}/momentum@0": self._momentum[place] for place, name in enumerate(self._names)}
        if self._variance is not None:
            found |= {f"{name}/variance@0": self._variance[place] for place, name in enumerate(self._names)}
        return found

    def load(self, pieces: dict[str, Tensor]) -> None:
        for place, name in enumerate(self._names):
            self._momentum[place] = pieces[f"{name}/momentum@0"]
            if self._variance is not None:
                self._variance[place] = pieces[f"{name}/variance@0"]
