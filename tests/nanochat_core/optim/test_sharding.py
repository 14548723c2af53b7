"""Who owns which matrix, and in which order gradients set out."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nanochat_core.distributed import World
from nanochat_core.optim.parts import ScalarPart
from nanochat_core.optim.rates import Rates
from nanochat_core.optim.recipe import AdamWGroup
from nanochat_core.optim.sharding import OrderedStarts, matrix_cost, owners_by_cost

SHAPES = st.tuples(st.sampled_from([(64, 64), (256, 64), (64, 256), (1, 12), (128, 64)]), st.integers(1, 12))
TWO_RANKS = World(0, 2, torch.device("cpu"))


@given(st.lists(SHAPES, min_size=1, max_size=6), st.integers(1, 9))
def test_every_matrix_has_one_owner_and_no_rank_much_more_than_its_share(
    stacks: list[tuple[tuple[int, int], int]], ranks: int
) -> None:
    owners = owners_by_cost(stacks, ranks)
    assert [len(found) for found in owners] == [count for _, count in stacks]
    loads = [0] * ranks
    for found, (shape, count) in zip(owners, stacks, strict=True):
        assert all(found.count(rank) <= -(-count // ranks) for rank in range(ranks))
        for rank in found:
            loads[rank] += matrix_cost(*shape)
    # The share of a stack, rounded up, is the bound of each stack, and so their sum is a bound of the load.
    assert max(loads) <= sum(-(-count // ranks) * matrix_cost(*shape) for shape, count in stacks)


def test_a_single_costly_matrix_more_than_divides_evenly_goes_to_who_has_least_to_do() -> None:
    owners = owners_by_cost([((64, 64), 3), ((256, 64), 3)], 2)
    loads = [
        sum(matrix_cost(*shape) * found.count(rank) for found, shape in zip(owners, [(64, 64), (256, 64)], strict=True))
        for rank in range(2)
    ]
    assert abs(loads[0] - loads[1]) == matrix_cost(256, 64) - matrix_cost(64, 64)


class Starts:
    """Three parts, of two, one and one parameters; notes which was started with which gradients."""

    def __init__(self) -> None:
        self.parameters = [nn.Parameter(torch.ones(())) for _ in range(4)]
        parts = [self.parameters[:2], self.parameters[2:3], self.parameters[3:]]
        self.log: list[tuple[int, list[float]]] = []
        self.starts = OrderedStarts([(lambda n=n, p=p: self._note(n, p), p) for n, p in enumerate(parts)], TWO_RANKS)

    def _note(self, number: int, parameters: list[nn.Parameter]) -> None:
        self.log.append((number, [parameter.grad.item() for parameter in parameters]))

    def backward(self, *order: int) -> None:
        for place in order:
            self.parameters[place].sum().backward()

    @property
    def order(self) -> list[int]:
        return [number for number, _ in self.log]


def test_parts_set_out_in_their_order_whichever_gradient_comes_first() -> None:
    found = Starts()
    found.backward(0, 1, 2, 3)
    assert found.log == []
    found.starts.arm()
    found.backward(2, 1)
    assert found.order == []
    found.backward(0)
    assert found.order == [0, 1]
    found.starts.start_the_rest()
    assert found.order == [0, 1, 2]
    assert found.log[:2] == [(0, [2.0, 2.0]), (1, [2.0])]


def test_a_pass_that_is_made_again_sends_whole_gradients_and_each_part_once() -> None:
    found = Starts()
    found.starts.arm()
    found.backward(0, 1)  # memory ends here
    assert found.log == [(0, [1.0, 1.0])]
    for parameter in found.parameters:
        parameter.grad = None
    found.starts.disarm()
    found.backward(0, 1, 2, 3)  # half of the batch
    assert found.order == [0]
    found.starts.arm()
    found.backward(0, 1, 2, 3)
    found.starts.start_the_rest()
    assert found.log == [(0, [1.0, 1.0]), (1, [2.0]), (2, [2.0])]


class Doubling(World):
    """Two ranks with the same gradients, without a second process."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.mul_(2)


def test_a_scalar_that_is_on_its_way_does_not_see_the_gradient_of_a_pass_made_again() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    part = ScalarPart("input_scale", parameter, "input_scale", AdamWGroup(), Doubling(0, 2, torch.device("cpu")))
    parameter.grad = torch.ones(3)
    part.start_reduce()
    assert parameter.grad.tolist() == [1, 1, 1]
    parameter.grad = torch.full((3,), 7.0)  # memory ended; this rank's passes are made again
    assert part.finish_reduce().item() == 3 * 2**2 / 2  # the norm's share of one of two ranks
    part.update(Rates(embedding=0, head=0, matrix=0, momentum=0, input_scale=0.5), 1)
    torch.testing.assert_close(part.pieces()["input_scale/m@0"], torch.full((3,), 0.2 * 2.0))


def test_the_next_step_begins_anew() -> None:
    found = Starts()
    found.starts.arm()
    found.backward(0, 1)
    assert found.starts.begin_anew() == 1
    found.backward(0, 1, 2, 3)
    assert found.order == [0]
    found.starts.arm()
    found.backward(0, 1, 2, 3)
    assert found.order == [0, 0, 1, 2]
