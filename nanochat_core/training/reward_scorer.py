"""A reward model at work: as the scorer of pairs that it is trained by, and as the reward of RL.

RL asks for it as `rl.reward: preference`, and gives the stage an input `reward_model`, the folder of a finished one.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder
from nanochat_core.data.preference_loader import PairBatch
from nanochat_core.inference.interface import Completion, Conversation
from nanochat_core.model.gpt import GPT
from nanochat_core.model.reward_model import RewardModel
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from nanochat_core.training.pair_steps import Scored

INPUT = "reward_model"  # of the stage that is rewarded by it
ROWS = 32  # answers at a time


def score_by_head(model: GPT, batch: PairBatch) -> Scored:
    """Score answers by the reward head of `model`, a RewardModel."""
    assert isinstance(model, RewardModel)
    rewards = model.rewards(batch.idx, batch.last)
    return Scored(rewards.detach(), lambda slopes: (rewards * slopes).sum())


class PreferenceReward:
    """What people would think of an answer, as a finished reward model has learned it."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model.eval(), tokenizer

    @classmethod
    def of_stage(cls, folder: StageFolder, device: torch.device) -> "PreferenceReward":
        """Return the reward of a stage that has the input `reward_model`; raises CheckpointError for another model."""
        return cls.of(folder.input(INPUT), Tokenizer.load(folder.input("tokenizer")), device)

    @classmethod
    def of(cls, folder: Path, tokenizer: Tokenizer, device: torch.device) -> "PreferenceReward":
        """Return the reward by the model in `folder`; raises CheckpointError where that is no reward model."""
        model, _ = checkpoint.load_model(folder, tokenizer_hash=tokenizer.hash, device=device, kind=RewardModel)
        assert isinstance(model, RewardModel)
        if device.type == "cpu":
            model.compute_dtype = torch.float32  # as in inference/load.py
        return cls(model, tokenizer)

    def __call__(self, question: Conversation, completion: Completion) -> float:
        return self.rewards(question, [completion])[0]

    @torch.no_grad()
    def rewards(self, question: Conversation, completions: Sequence[Completion]) -> list[float]:
        """Return the reward of each answer to one question, as if it ended where it was cut off."""
        prompt, end = render_prompt(self._tokenizer, question), self._tokenizer.special("<|assistant_end|>")
        rows = []
        for completion in completions:
            ids = [*completion.ids]
            rows.append(torch.tensor([*prompt, *(ids[:-1] if ids[-1:] == [end] else ids), end]))
        return [float(reward) for first in range(0, len(rows), ROWS) for reward in self._of(rows[first : first + ROWS])]

    def _of(self, rows: list[Tensor]) -> Tensor:
        device = self._model.device
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        return self._model.rewards(pad_sequence(rows, batch_first=True).to(device), last)
