"""Scoring the obvious way, as an oracle: one example at a time, each option in a forward pass of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.inference.interface import Conversation
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from tasks_eval.core.bundle import CoreTask
from tasks_eval.core.prompts import Item, render_prompts


@dataclass(frozen=True)
class SlowVerdict:
    """Of each option the log-likelihood (nats, summed) and the mean of a token; is_right by the task's rule."""

    logprobs: list[float]
    means: list[float]
    answer: int | None
    is_right: bool


def slow_core(model: GPT, tokenizer: Tokenizer, task: CoreTask, items: Sequence[Item], index: int) -> SlowVerdict:
    """Score item `index` of a CORE task."""
    rows = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in render_prompts(task, items, index)]
    if task.kind == "language_modeling":
        without, whole = rows
        same = 0
        while same < min(len(without), len(whole)) and without[same] == whole[same]:
            same += 1
        logprobs, is_best = scored(model, whole, len(whole) - min(same, len(whole) - 1))
        is_right = bool(is_best.all())
        return SlowVerdict([float(logprobs.sum())], [float(logprobs.mean())], None, is_right)
    same = 0
    from_the_end = task.kind == "schema"
    while all(same < len(row) for row in rows) and len({row[-1 - same if from_the_end else same] for row in rows}) == 1:
        same += 1
    counts = [same if from_the_end else len(row) - same for row in rows]
    found = [scored(model, row, max(1, min(count, len(row) - 1)))[0] for row, count in zip(rows, counts, strict=True)]
    means = [float(logprobs.mean()) for logprobs in found]
    answer = max(range(len(means)), key=means.__getitem__)
    return SlowVerdict([float(logprobs.sum()) for logprobs in found], means, answer, answer == items[index]["gold"])


@torch.no_grad()
def scored(model: GPT, ids: list[int], count: int) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the last `count` ids in float64, and whether each was the likeliest.

    They are given as much of the text before them as the model was trained for.
    """
    kept = ids[-max(model.spec.sequence_len, count + 1) :]
    logits = model(torch.tensor([kept]))[0, -count - 1 : -1].double()
    targets = torch.tensor(kept[-count:])
    logprobs = torch.log_softmax(logits, dim=-1)[torch.arange(count), targets]
    return logprobs, logits.argmax(dim=-1) == targets


@torch.no_grad()
def slow_letters(model: GPT, tokenizer: Tokenizer, prompt: Conversation, letters: Sequence[str]) -> list[float]:
    """Return the log-probability of each letter among the letters, as the first token of the answer."""
    logits = model(torch.tensor([render_prompt(tokenizer, prompt)]))[0, -1].double()
    ids = [tokenizer.encode(letter)[0] for letter in letters]
    return torch.log_softmax(logits[ids], dim=0).tolist()
