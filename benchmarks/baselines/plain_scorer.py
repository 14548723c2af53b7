"""Multiple choice scored as one writes it in plain PyTorch: what benchmarks/eval.py compares the project's scorer with.

One example after another. The options of an example are filled up to the longest and go through the model together,
which gives the logits of all positions; the mean loss over each option's own tokens decides. Frozen: it changes only
where PyTorch's own idiom does.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Model = Callable[[Tensor], Tensor]  # ids (B, T) -> logits (B, T, V)


@torch.inference_mode()
def option_losses(model: Model, options: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Tensor]:
    """Return, for each option, the losses in nats of its ids from its start on."""
    longest = max(map(len, options))
    idx = torch.zeros(len(options), longest, dtype=torch.int64)
    for row, ids in zip(idx, options, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    logits = model(idx[:, :-1]).float()
    losses = F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten(), reduction="none").view(len(options), -1)
    return [row[start - 1 : len(ids) - 1] for row, ids, start in zip(losses, options, starts, strict=True)]
