"""A GPT that gives a whole answer one number: the last token's residual stream times a vector.

With r(x, y) = w · h(last token of prompt x and answer y), the chance that y is preferred to y' is σ(r(x, y) − r(x, y'))
(Bradley and Terry 1952; Ouyang et al. 2022). The head over the vocabulary stays where it is, unused.
"""

import torch
from torch import Tensor, nn

from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec

HEAD = "reward_head"


class RewardModel(GPT):
    """A GPT with a vector `reward_head` (C,) besides."""

    def __init__(self, spec: ModelSpec, vocab_size: int) -> None:
        super().__init__(spec, vocab_size)
        self.reward_head = nn.Parameter(torch.empty(spec.n_embd))

    @classmethod
    def of(cls, model: GPT) -> "RewardModel":
        """Return the reward model that begins with the weights of `model` (not copied) and finds all answers equal."""
        with torch.device("meta"):
            made = cls(model.spec, model.vocab_size)
        head = torch.zeros(model.spec.n_embd, device=model.device)
        made.load_state_dict(model.state_dict() | {HEAD: head}, assign=True)
        made.compute_dtype = model.compute_dtype
        return made

    def rewards(self, idx: Tensor, last: Tensor) -> Tensor:
        """Return the reward (B,), float32, of each row of `idx` (B, T), whose last token is at `last` (B,)."""
        ends = self.hidden(idx)[torch.arange(len(idx), device=idx.device), last]  # (B, C)
        return ends.float() @ self.reward_head.float()
