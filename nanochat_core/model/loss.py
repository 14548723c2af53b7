"""Cross-entropy of next tokens.

`IGNORED` targets cost nothing. The sum, not the mean, is returned: whoever trains divides by the trained tokens of all
micro-batches and ranks, so that a micro-batch without any gives zero and never NaN.
"""

from torch import Tensor
from torch.nn import functional as F

from nanochat_core.model.gpt import GPT

IGNORED = -1


def token_nll(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """Return −log p of each target after `idx` (both (B, T)) in nats, float32 (B, T); 0 where IGNORED."""
    logits = model(idx)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(targets)


def loss_sum(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
    """Return the summed loss in nats (float32 scalar) of `targets` (B, T) after `idx` (B, T)."""
    logits = model(idx)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
