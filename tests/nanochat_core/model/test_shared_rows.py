"""A line of rows that begin alike gives each row's states and gradients."""

import numpy as np
import pytest
import torch

from nanochat_core.model.shared_rows import SharedRows
from nanochat_core.specs import Arch
from tests.nanochat_core.inference.test_engine import random_model

ROWS = [list(range(3, 8)), [3, 4, 5, 9, 9, 2] + [7] * 30, [3, 4, 5, 9, 9, 2, 1], [8], [8, 6] * 70]
ROWS[3:3] = [ROWS[2], [3, 4, 5]]  # what another row says, and how another one begins
SHARED = [0, 3, 6, 7, 3, 0, 1]


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_states_and_gradients_are_those_of_each_row_alone(arch: Arch) -> None:
    gradients, states = [], []
    line = SharedRows.of([np.array(row) for row in ROWS], SHARED, torch.device("cpu"))
    assert len(line.ids[0]) == sum(map(len, ROWS)) - sum(SHARED) and len(line.pieces) > 2
    for is_shared in (False, True):
        model = random_model(arch=arch)
        hidden = model.hidden(line.ids, line)[0] if is_shared else torch.zeros(0)
        found = [
            hidden[torch.from_numpy(path)] if is_shared else model.hidden(torch.tensor([row]))[0]
            for row, path in zip(ROWS, line.paths, strict=True)
        ]
        torch.stack([(own * torch.arange(own.numel()).view_as(own).sin()).sum() for own in found]).sum().backward()
        states.append(torch.cat(found))
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)
    for ours, alone in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-4)
